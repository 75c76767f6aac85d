//! The grammar of PostgREST's query parameters: names, JSON paths, operators, lists and logic trees.
//!
//! Invariants: one pass, no backtracking but for a quoted or braced value; nesting is bounded by
//! [`DEPTH_MAX`], so that hostile input cannot exhaust the stack; a value is only ever taken as a
//! value, and a name as a name.

use super::syntax::{
    Condition, Field, Filter, IS_VALUES, Item, OPERATORS, Operand, Order, Quantifier, SEARCHES, Step, Test,
};

/// How deep logic trees may nest.
pub(crate) const DEPTH_MAX: usize = 16;
/// How long a name may be, in bytes. PostgreSQL cuts longer ones, and a cut name is another name.
pub(crate) const NAME_BYTES_MAX: usize = 63;
/// How many steps a JSON path may have.
pub(crate) const STEPS_MAX: usize = 32;

/// Why a parameter cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Something else was expected at this character (counted from 1).
    Expected { column: usize, found: Option<char>, expected: &'static str },
    /// It is nested too deep, or a name or path is too long.
    TooMuch(&'static str),
    /// A part of PostgREST's grammar that this version does not have.
    NotImplemented(&'static str),
    /// Aggregates, which are off as they are in PostgREST by default.
    Aggregate,
}

type Read<T> = Result<T, Unread>;

/// A cursor over one parameter's text.
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn spaces(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.at += 1;
        }
    }

    fn expected<T>(&self, expected: &'static str) -> Read<T> {
        let column = self.text.get(..self.at).map_or(0, |before| before.chars().count()) + 1;
        Err(Unread::Expected { column, found: self.peek(), expected })
    }

    fn end(&self) -> Read<()> {
        if self.rest().is_empty() { Ok(()) } else { self.expected("end of input") }
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    /// `"…"` with backslash escapes; the cursor stands behind the closing quote.
    fn quoted(&mut self) -> Read<Box<str>> {
        if !self.eat("\"") {
            return self.expected("a quoted value");
        }
        let mut value = String::new();
        loop {
            match self.bump() {
                Some('"') => return Ok(value.into()),
                Some('\\') => match self.bump() {
                    Some(escaped) => value.push(escaped),
                    None => return self.expected("an escaped character"),
                },
                Some(plain) => value.push(plain),
                None => return self.expected("a closing quote"),
            }
        }
    }

    /// A name: quoted, or letters, digits, `_`, `$`, inner spaces, and `-` that does not begin an arrow.
    fn any_name(&mut self, expected: &'static str) -> Read<Box<str>> {
        if self.peek() == Some('"') {
            let name = self.quoted()?;
            return if name.is_empty() { self.expected(expected) } else { Ok(name) };
        }
        let rest = self.rest();
        let mut end = rest.len();
        let mut chars = rest.char_indices().peekable();
        while let Some((index, c)) = chars.next() {
            let dash = c == '-' && index > 0 && chars.peek().is_some_and(|(_, next)| *next != '>');
            if !(c.is_alphanumeric() || matches!(c, '_' | '$' | ' ') || dash) {
                end = index;
                break;
            }
        }
        let name = rest.get(..end).unwrap_or_default().trim();
        if name.is_empty() {
            return self.expected(expected);
        }
        self.at += end;
        Ok(name.into())
    }

    /// A column's name.
    fn name(&mut self) -> Read<Box<str>> {
        let name = self.any_name("field name (* or [a..z0..9_$])")?;
        if name.len() > NAME_BYTES_MAX {
            return Err(Unread::TooMuch("a name is longer than 63 bytes"));
        }
        Ok(name)
    }

    fn json_path(&mut self) -> Read<Vec<Step>> {
        let mut path = Vec::new();
        while self.eat("->") {
            if path.len() == STEPS_MAX {
                return Err(Unread::TooMuch("a JSON path has more than 32 steps"));
            }
            let text = self.eat(">");
            path.push(Step { text, operand: self.operand()? });
        }
        Ok(path)
    }

    fn operand(&mut self) -> Read<Operand> {
        let start = self.at;
        let negative = self.eat("-");
        let digits = self.take_while(|c| c.is_ascii_digit());
        let ends = matches!(self.peek(), None | Some('.' | ',' | ')'))
            || self.rest().starts_with("->")
            || self.rest().starts_with("::");
        if !digits.is_empty() && ends {
            let text = self.text.get(start..self.at).unwrap_or_default();
            return match text.parse() {
                Ok(index) => Ok(Operand::Index(index)),
                Err(_) => Err(Unread::TooMuch("a JSON index is out of range")),
            };
        }
        if negative {
            return self.expected("digit");
        }
        self.at = start;
        Ok(Operand::Key(self.any_name("a JSON key or index")?))
    }

    fn field(&mut self) -> Read<Field> {
        self.spaces();
        let field = Field { name: self.name()?, path: self.json_path()? };
        self.spaces();
        Ok(field)
    }

    /// A filter's key: a field by itself.
    pub(crate) fn whole_field(mut self) -> Read<Field> {
        let field = self.field()?;
        self.end()?;
        Ok(field)
    }

    /// `columns=`
    pub(crate) fn whole_columns(mut self) -> Read<Vec<Box<str>>> {
        let mut names = Vec::new();
        loop {
            self.spaces();
            names.push(self.name()?);
            self.spaces();
            if !self.eat(",") {
                self.end()?;
                return Ok(names);
            }
        }
    }

    /// `select=`
    pub(crate) fn whole_select(mut self) -> Read<Vec<Item>> {
        let mut items = Vec::new();
        loop {
            self.spaces();
            items.push(self.item()?);
            self.spaces();
            if !self.eat(",") {
                self.end()?;
                return Ok(items);
            }
        }
    }

    fn item(&mut self) -> Read<Item> {
        if self.rest().starts_with("..") {
            return Err(Unread::NotImplemented("spread relations in select"));
        }
        if self.eat("*") {
            return Ok(Item::Star);
        }
        let mut field = Field { name: self.name()?, path: Vec::new() };
        let mut alias = None;
        if self.rest().starts_with(':') && !self.rest().starts_with("::") {
            self.at += 1;
            alias = Some(field.name);
            self.spaces();
            field = Field { name: self.name()?, path: Vec::new() };
        }
        match self.peek() {
            Some('!') => return Err(Unread::NotImplemented("embedded relations in select")),
            Some('(') if self.rest().starts_with("()") => return Err(Unread::Aggregate),
            Some('(') => return Err(Unread::NotImplemented("embedded relations in select")),
            _ => field.path = self.json_path()?,
        }
        let cast = if self.eat("::") { Some(self.type_name()?) } else { None };
        if self.peek() == Some('.') && self.rest().contains("()") {
            return Err(Unread::Aggregate);
        }
        Ok(Item::Column { field, alias, cast })
    }

    fn type_name(&mut self) -> Read<Box<str>> {
        let name = self.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | ' ')).trim();
        if name.is_empty() {
            return self.expected("a type's name");
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(Unread::TooMuch("a type's name is longer than 63 bytes"));
        }
        Ok(name.into())
    }

    /// `order=`
    pub(crate) fn whole_order(mut self) -> Read<Vec<Order>> {
        let mut terms = Vec::new();
        loop {
            let field = self.field()?;
            if self.peek() == Some('(') {
                return Err(Unread::NotImplemented("ordering by embedded relations"));
            }
            let mut order = Order { field, descending: None, nulls_first: None };
            self.directions(&mut order)?;
            terms.push(order);
            self.spaces();
            if !self.eat(",") {
                self.end()?;
                return Ok(terms);
            }
        }
    }

    fn directions(&mut self, order: &mut Order) -> Read<()> {
        let mut first = true;
        while self.eat(".") {
            let word = self.take_while(|c| c.is_ascii_alphanumeric());
            match word {
                "asc" | "desc" if first => order.descending = Some(word == "desc"),
                "nullsfirst" | "nullslast" if order.nulls_first.is_none() => {
                    order.nulls_first = Some(word == "nullsfirst");
                }
                _ => {
                    self.at -= word.len();
                    let expected = "\"asc\", \"desc\", \"nullsfirst\" or \"nullslast\"";
                    return self.expected(expected);
                }
            }
            first = false;
        }
        Ok(())
    }

    /// The value of a filter parameter: `not.eq.5`.
    pub(crate) fn whole_test(mut self) -> Read<(bool, Test)> {
        let test = self.test(false)?;
        self.end()?;
        Ok(test)
    }

    fn test(&mut self, in_tree: bool) -> Read<(bool, Test)> {
        const EXPECTED: &str = "\"not\" or operator (eq, gt, ...)";
        let negated = self.eat("not.");
        let start = self.at;
        let word = self.take_while(|c| c.is_ascii_alphanumeric());
        let test = match word {
            "in" if self.eat(".") => Test::In(self.list()?),
            "is" if self.eat(".") => self.is_value()?,
            "isdistinct" if self.eat(".") => Test::Distinct(self.value(in_tree)?),
            _ => {
                let search = SEARCHES.iter().find(|(name, _)| *name == word);
                let compare = OPERATORS.iter().find(|operator| operator.name == word);
                match (search, compare) {
                    (Some((name, function)), _) => self.search(name, function, in_tree)?,
                    (None, Some(operator)) => self.compare(operator, in_tree)?,
                    (None, None) => {
                        self.at = start;
                        return self.expected(EXPECTED);
                    }
                }
            }
        };
        Ok((negated, test))
    }

    fn compare(&mut self, operator: &'static super::syntax::Operator, in_tree: bool) -> Read<Test> {
        let quantifier = if !operator.quantifiable {
            None
        } else if self.eat("(any)") {
            Some(Quantifier::Any)
        } else if self.eat("(all)") {
            Some(Quantifier::All)
        } else {
            None
        };
        if !self.eat(".") {
            return self.expected("delimiter (.)");
        }
        Ok(Test::Compare { operator, quantifier, value: self.value(in_tree)? })
    }

    fn search(&mut self, name: &'static str, function: &'static str, in_tree: bool) -> Read<Test> {
        let mut config = None;
        if self.eat("(") {
            config = Some(self.type_name()?);
            if !self.eat(")") {
                return self.expected("\")\"");
            }
        }
        if !self.eat(".") {
            return self.expected("delimiter (.)");
        }
        Ok(Test::Search { name, function, config, value: self.value(in_tree)? })
    }

    fn is_value(&mut self) -> Read<Test> {
        let word = self.take_while(|c| c.is_ascii_alphabetic() || c == '_');
        match IS_VALUES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
            Some((name, sql)) => Ok(Test::Is(name, sql)),
            None => {
                self.at -= word.len();
                self.expected("isVal: (null, not_null, true, false, unknown)")
            }
        }
    }

    fn list(&mut self) -> Read<Vec<Box<str>>> {
        self.spaces();
        if !self.eat("(") {
            return self.expected("\"(\"");
        }
        let mut values = Vec::new();
        loop {
            values.push(self.element(",)"));
            if self.eat(",") {
                continue;
            }
            if !self.eat(")") {
                return self.expected("\",\" or \")\"");
            }
            self.spaces();
            // `in.()` is the empty list.
            let empty = values.len() == 1 && values.first().is_some_and(|value| value.is_empty());
            return Ok(if empty { Vec::new() } else { values });
        }
    }

    /// A quoted value, if the quote ends right before a delimiter; else all up to one.
    fn element(&mut self, delimiters: &str) -> Box<str> {
        let start = self.at;
        if self.peek() == Some('"')
            && let Ok(value) = self.quoted()
            && self.peek().is_none_or(|c| delimiters.contains(c))
        {
            return value;
        }
        self.at = start;
        self.take_while(|c| !delimiters.contains(c)).into()
    }

    fn value(&mut self, in_tree: bool) -> Read<Box<str>> {
        if !in_tree {
            let value = self.rest();
            self.at = self.text.len();
            return Ok(value.into());
        }
        let start = self.at;
        if self.eat("{") {
            self.take_while(|c| c != '{' && c != '}');
            if self.eat("}") {
                return Ok(self.text.get(start..self.at).unwrap_or_default().into());
            }
            self.at = start;
        }
        Ok(self.element(",)"))
    }

    /// The value of `and=` or `or=`: `(a.eq.1,not.and(…))`.
    pub(crate) fn whole_group(mut self, negated: bool, any: bool) -> Read<Condition> {
        let parts = self.parts(1)?;
        self.end()?;
        Ok(Condition::Group { negated, any, parts })
    }

    fn parts(&mut self, depth: usize) -> Read<Vec<Condition>> {
        if depth > DEPTH_MAX {
            return Err(Unread::TooMuch("logic is nested deeper than 16 levels"));
        }
        self.spaces();
        if !self.eat("(") {
            return self.expected("\"(\"");
        }
        let mut parts = Vec::new();
        loop {
            self.spaces();
            parts.push(self.condition(depth)?);
            self.spaces();
            if self.eat(",") {
                continue;
            }
            if !self.eat(")") {
                return self.expected("\",\" or \")\"");
            }
            self.spaces();
            return Ok(parts);
        }
    }

    fn condition(&mut self, depth: usize) -> Read<Condition> {
        let start = self.at;
        let negated = self.eat("not.");
        for (word, any) in [("and", false), ("or", true)] {
            let here = self.at;
            if self.eat(word) {
                self.spaces();
                if self.peek() == Some('(') {
                    return Ok(Condition::Group { negated, any, parts: self.parts(depth + 1)? });
                }
            }
            self.at = here;
        }
        self.at = start;
        let field = self.field()?;
        if !self.eat(".") {
            return self.expected("delimiter (.)");
        }
        let (negated, test) = self.test(true)?;
        Ok(Condition::Filter(Filter { field, negated, test }))
    }
}
