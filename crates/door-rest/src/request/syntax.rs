//! What a query string says, as data: the types that the grammar produces and the planner reads.

use std::fmt;

/// A column and a path into its JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// The column's name, exactly as the catalogue has it.
    pub(crate) name: Box<str>,
    /// `->` and `->>` steps, outermost first.
    pub(crate) path: Vec<Step>,
}

/// One step into JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Whether the step answers text (`->>`).
    pub(crate) text: bool,
    /// Where it goes.
    pub(crate) operand: Operand,
}

/// Where a JSON step goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// To an object's key.
    Key(Box<str>),
    /// To an array's element, counted from the end when negative.
    Index(i32),
}

/// One item of `select=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// `*`
    Star,
    /// `alias:column->path::type`
    Column { field: Field, alias: Option<Box<str>>, cast: Option<Box<str>> },
}

/// An operator that takes one value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Operator {
    /// As the query string spells it.
    pub(crate) name: &'static str,
    /// As PostgreSQL spells it.
    pub(crate) sql: &'static str,
    /// Whether `(any)` and `(all)` may follow.
    pub(crate) quantifiable: bool,
    /// Whether `*` in the value stands for `%`.
    pub(crate) pattern: bool,
}

const fn operator(name: &'static str, sql: &'static str, quantifiable: bool, pattern: bool) -> Operator {
    Operator { name, sql, quantifiable, pattern }
}

/// All operators that take one value.
pub(crate) const OPERATORS: [Operator; 18] = [
    operator("eq", "=", true, false),
    operator("gt", ">", true, false),
    operator("gte", ">=", true, false),
    operator("lt", "<", true, false),
    operator("lte", "<=", true, false),
    operator("like", "LIKE", true, true),
    operator("ilike", "ILIKE", true, true),
    operator("match", "~", true, false),
    operator("imatch", "~*", true, false),
    operator("neq", "<>", false, false),
    operator("cs", "@>", false, false),
    operator("cd", "<@", false, false),
    operator("ov", "&&", false, false),
    operator("sl", "<<", false, false),
    operator("sr", ">>", false, false),
    operator("nxr", "&<", false, false),
    operator("nxl", "&>", false, false),
    operator("adj", "-|-", false, false),
];

/// Full-text operators and the functions that make their queries.
pub(crate) const SEARCHES: [(&str, &str); 4] = [
    ("fts", "to_tsquery"),
    ("plfts", "plainto_tsquery"),
    ("phfts", "phraseto_tsquery"),
    ("wfts", "websearch_to_tsquery"),
];

/// What `is.` may be followed by, and its SQL.
pub(crate) const IS_VALUES: [(&str, &str); 5] = [
    ("null", "NULL"),
    ("not_null", "NOT NULL"),
    ("true", "TRUE"),
    ("false", "FALSE"),
    ("unknown", "UNKNOWN"),
];

/// `(any)` or `(all)`: the value is an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantifier {
    /// One element is enough.
    Any,
    /// Each element counts.
    All,
}

/// What a field is tested for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// An operator and its value.
    Compare { operator: &'static Operator, quantifier: Option<Quantifier>, value: Box<str> },
    /// `in.(a,b)`
    In(Vec<Box<str>>),
    /// `is.null`; the pair of [`IS_VALUES`].
    Is(&'static str, &'static str),
    /// `isdistinct.value`
    Distinct(Box<str>),
    /// Full-text search: name, query function, configuration, value.
    Search { name: &'static str, function: &'static str, config: Option<Box<str>>, value: Box<str> },
}

/// A condition on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) field: Field,
    pub(crate) negated: bool,
    pub(crate) test: Test,
}

/// A tree of conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// One condition.
    Filter(Filter),
    /// Conditions joined by `and` or `or`.
    Group { negated: bool, any: bool, parts: Vec<Condition> },
}

/// One term of `order=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) field: Field,
    pub(crate) descending: Option<bool>,
    pub(crate) nulls_first: Option<bool>,
}

/// What a query string says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// `select=`; empty means `*`.
    pub(crate) select: Vec<Item>,
    /// All filters and trees; they hold together.
    pub(crate) conditions: Vec<Condition>,
    /// `order=`
    pub(crate) order: Vec<Order>,
    /// `limit=`
    pub(crate) limit: Option<u64>,
    /// `offset=`
    pub(crate) offset: u64,
    /// `columns=`
    pub(crate) columns: Option<Vec<Box<str>>>,
    /// Arguments of a function called by GET.
    pub(crate) arguments: Vec<(Box<str>, Box<str>)>,
}

/// A field as the query string spells it; JSON keys are names, not values, and stay.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for step in &self.path {
            f.write_str(if step.text { "->>" } else { "->" })?;
            match &step.operand {
                Operand::Key(key) => f.write_str(key)?,
                Operand::Index(index) => write!(f, "{index}")?,
            }
        }
        Ok(())
    }
}
