//! Stage three: a [`Plan`] → one SQL text and its parameters.
//!
//! Invariants: every value of the request is a parameter, every identifier is quoted, and type names are
//! quoted or come from a fixed list or the catalogue; so the text depends on the form of the request
//! alone, and preparing it once per form is enough. The names that begin with `dw` are the gateway's;
//! none of them is ever looked up without its qualifier.

use std::borrow::Cow;

use bytes::Bytes;
use doorward_pgclient::catalog::{Column, Function, Generated, Relation};

use crate::plan::{
    BodyForm, CallArguments, Change, Expression, Node, Output, Plan, Source, Where, default_of,
};
use crate::request::body::Payload;
use crate::request::syntax::{Filter, Operand, Quantifier, Test};

/// A statement and the values of its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) text: String,
    pub(crate) params: Vec<Bytes>,
}

/// The columns that every statement answers, in order.
pub(crate) mod column {
    /// Rows as if there were no limit, when they were counted.
    pub(crate) const TOTAL: usize = 0;
    /// Rows in the answer, or changed.
    pub(crate) const ROWS: usize = 1;
    /// The body.
    pub(crate) const BODY: usize = 2;
    /// The setting `response.headers`.
    pub(crate) const HEADERS: usize = 3;
    /// The setting `response.status`.
    pub(crate) const STATUS: usize = 4;
    /// The new row's key, as a JSON object of texts.
    pub(crate) const KEY: usize = 5;
    /// How many there are.
    pub(crate) const COUNT: usize = 6;
}

/// Room that a statement finds at once.
const STATEMENT_ROOM: usize = 768;

/// Writes the statement of a plan. Reads are what there is most of: their texts are appended to, not formatted.
pub(crate) fn write(plan: &Plan<'_>) -> Statement {
    let mut writer = Writer::default();
    let mut sql = String::with_capacity(STATEMENT_ROOM);
    let from = match &plan.source {
        Source::Relation(relation) => table(relation),
        _ => "dw_source".to_owned(),
    };
    if let Some(source) = writer.source(plan) {
        push(&mut sql, &["WITH dw_source AS (", &source, ") "]);
    }
    let conditions = writer.conditions(&plan.root.conditions, &from);
    match plan.count {
        true => push(&mut sql, &["SELECT (SELECT pg_catalog.count(*) FROM ", &from, &conditions, "), "]),
        false => sql.push_str("SELECT NULL::pg_catalog.int8, "),
    }
    // A bound on what is answered of a change does not bound what was changed.
    let changes = matches!(plan.source, Source::Insert(_) | Source::Update(..) | Source::Delete(..));
    let counted = match changes && plan.root.limit.is_some() {
        true => "(SELECT pg_catalog.count(*) FROM dw_source)",
        false => "pg_catalog.count(*)",
    };
    push(&mut sql, &[counted, ", "]);
    match plan.only_one {
        true => sql.push_str(&only_one(body(plan.form), counted)),
        false => sql.push_str(body(plan.form)),
    }
    sql.push_str(
        ", nullif(pg_catalog.current_setting('response.headers', true), ''), \
         nullif(pg_catalog.current_setting('response.status', true), '')",
    );
    push(&mut sql, &[key(plan), " FROM ("]);
    writer.rows(&plan.root, &from, &conditions, plan, &mut sql);
    sql.push_str(") AS dw");
    writer.statement.text = sql;
    writer.statement
}

fn push(sql: &mut String, parts: &[&str]) {
    for part in parts {
        sql.push_str(part);
    }
}

fn body(form: BodyForm) -> &'static str {
    match form {
        BodyForm::Rows => "coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]')",
        BodyForm::Row => "coalesce((pg_catalog.json_agg(dw.*)->0)::pg_catalog.text, 'null')",
        BodyForm::Values => "coalesce(pg_catalog.json_agg(dw.dw_value)::pg_catalog.text, '[]')",
        BodyForm::Value => "coalesce((pg_catalog.json_agg(dw.dw_value)->0)::pg_catalog.text, 'null')",
        BodyForm::Empty => "NULL::pg_catalog.text",
    }
}

/// How the statement fails that must be of one row and is not; the number of rows follows.
pub(crate) const NOT_ONE_ROW: &str = "dw_not_one_row:";

/// A change of more or fewer rows than one must be undone, and only an error undoes it within the
/// statement: so the text that says how many there were is read as a number, which it is not.
fn only_one(body: &str, counted: &str) -> String {
    format!(
        "CASE WHEN {counted} = 1 THEN {body} \
         ELSE pg_catalog.concat('{NOT_ONE_ROW}', {counted})::pg_catalog.int4::pg_catalog.text END"
    )
}

fn key(plan: &Plan<'_>) -> &'static str {
    if plan.location.is_empty() {
        return "";
    }
    ", CASE WHEN pg_catalog.count(*) = 1 THEN (SELECT pg_catalog.json_object_agg(dw_key.key, dw_key.value)\
     ::pg_catalog.text FROM pg_catalog.json_each_text((SELECT pg_catalog.row_to_json(dw_row.*) \
     FROM dw_source AS dw_row LIMIT 1)) AS dw_key) END"
}

/// An identifier, quoted.
pub(crate) fn ident(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    push_ident(&mut quoted, name);
    quoted
}

fn push_ident(sql: &mut String, name: &str) {
    sql.push('"');
    let mut parts = name.split('"');
    sql.push_str(parts.next().unwrap_or_default());
    for part in parts {
        push(sql, &["\"\"", part]);
    }
    sql.push('"');
}

fn table(relation: &Relation) -> String {
    let mut sql = String::with_capacity(relation.schema.len() + relation.name.len() + 5);
    push_ident(&mut sql, &relation.schema);
    sql.push('.');
    push_ident(&mut sql, &relation.name);
    sql
}

/// What a change hands to the node above it: the columns that the node needs, and no others, because
/// each one takes the right to read it.
fn returning(relation: &Relation, plan: &Plan<'_>) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut add = |name| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    if plan.form != BodyForm::Empty {
        if plan.root.items.is_empty() {
            relation.columns.iter().for_each(|column| add(&*column.name));
        }
        for item in &plan.root.items {
            match item {
                Output::Star => relation.columns.iter().for_each(|column| add(&*column.name)),
                Output::Column { expression, .. } => add(&*expression.field.name),
            }
        }
        plan.root.order.iter().for_each(|(expression, _)| add(&*expression.field.name));
    }
    plan.location.iter().for_each(|name| add(name));
    if names.is_empty() {
        return "1".to_owned();
    }
    let target = table(relation);
    names.iter().map(|name| format!("{target}.{}", ident(name))).collect::<Vec<_>>().join(", ")
}

/// A type's name as a caller writes it. What SQL spells with keywords is spelled so; everything else is
/// folded as PostgreSQL folds it, and quoted.
fn type_name(name: &str) -> Cow<'static, str> {
    const SQL_NAMES: [(&str, &str); 18] = [
        ("int", "pg_catalog.int4"),
        ("integer", "pg_catalog.int4"),
        ("bigint", "pg_catalog.int8"),
        ("smallint", "pg_catalog.int2"),
        ("real", "pg_catalog.float4"),
        ("float", "pg_catalog.float8"),
        ("double precision", "pg_catalog.float8"),
        ("decimal", "pg_catalog.numeric"),
        ("dec", "pg_catalog.numeric"),
        ("boolean", "pg_catalog.bool"),
        ("char", "character"),
        ("character", "character"),
        ("character varying", "pg_catalog.varchar"),
        ("bit varying", "pg_catalog.varbit"),
        ("timestamp with time zone", "pg_catalog.timestamptz"),
        ("timestamp without time zone", "pg_catalog.timestamp"),
        ("time with time zone", "pg_catalog.timetz"),
        ("time without time zone", "pg_catalog.time"),
    ];
    let folded = name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    match SQL_NAMES.iter().find(|(sql, _)| *sql == folded) {
        Some((_, known)) => Cow::Borrowed(known),
        None => Cow::Owned(ident(&folded)),
    }
}

/// An array as PostgreSQL reads it from text.
fn array_literal<'v>(values: impl Iterator<Item = &'v str>) -> String {
    let mut text = String::from("{");
    for (index, value) in values.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push('"');
        for c in value.chars() {
            if matches!(c, '"' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('"');
    }
    text.push('}');
    text
}

#[derive(Default)]
struct Writer {
    statement: Statement,
}

impl Writer {
    /// The statement that changes or calls something, and is selected from.
    fn source(&mut self, plan: &Plan<'_>) -> Option<String> {
        match &plan.source {
            Source::Relation(_) => None,
            Source::Insert(change) => Some(self.insert(change, plan)),
            Source::Update(change, conditions) => Some(self.update(change, conditions, plan)),
            Source::Delete(relation, conditions) => {
                let conditions = self.conditions(conditions, &table(relation));
                let returning = returning(relation, plan);
                let target = table(relation);
                Some(format!("DELETE FROM {target}{conditions} RETURNING {returning}"))
            }
            Source::Call(function, arguments) => Some(self.call(function, arguments)),
        }
    }

    /// Adds a parameter and gives its place.
    fn param(&mut self, value: impl Into<Bytes>) -> String {
        let mut place = String::with_capacity(8);
        self.push_param(value, &mut place);
        place
    }

    fn text(&mut self, value: &str) -> String {
        self.param(Bytes::copy_from_slice(value.as_bytes()))
    }

    /// Adds a parameter and appends its place.
    fn push_param(&mut self, value: impl Into<Bytes>, sql: &mut String) {
        self.statement.params.push(value.into());
        sql.push('$');
        match u32::try_from(self.statement.params.len()).ok().and_then(|place| char::from_digit(place, 10)) {
            Some(digit) => sql.push(digit),
            None => sql.push_str(&self.statement.params.len().to_string()),
        }
    }

    fn push_text(&mut self, value: &str, sql: &mut String) {
        self.push_param(Bytes::copy_from_slice(value.as_bytes()), sql);
    }

    fn rows(&mut self, node: &Node<'_>, from: &str, conditions: &str, plan: &Plan<'_>, sql: &mut String) {
        match plan.form {
            BodyForm::Values | BodyForm::Value => push(sql, &["SELECT ", from, ".dw_value"]),
            // Without a body only the number of rows counts.
            BodyForm::Empty => sql.push_str("SELECT 1"),
            BodyForm::Rows | BodyForm::Row if node.items.is_empty() => push(sql, &["SELECT ", from, ".*"]),
            BodyForm::Rows | BodyForm::Row => {
                let mut separator = "SELECT ";
                for item in &node.items {
                    sql.push_str(separator);
                    self.output(item, from, sql);
                    separator = ", ";
                }
            }
        }
        push(sql, &[" FROM ", from, conditions]);
        let mut separator = " ORDER BY ";
        for (expression, order) in &node.order {
            sql.push_str(separator);
            self.expression(expression, from, sql);
            sql.push_str(match order.descending {
                Some(true) => " DESC",
                Some(false) => " ASC",
                None => "",
            });
            sql.push_str(match order.nulls_first {
                Some(true) => " NULLS FIRST",
                Some(false) => " NULLS LAST",
                None => "",
            });
            separator = ", ";
        }
        if let Some(limit) = node.limit {
            sql.push_str(" LIMIT ");
            self.push_param(limit.to_string(), sql);
        }
        if node.offset > 0 {
            sql.push_str(" OFFSET ");
            self.push_param(node.offset.to_string(), sql);
        }
    }

    fn output(&mut self, item: &Output<'_>, from: &str, sql: &mut String) {
        match item {
            Output::Star => push(sql, &[from, ".*"]),
            Output::Column { expression, name, cast } => {
                if cast.is_some() {
                    sql.push_str("CAST(");
                }
                self.expression(expression, from, sql);
                if let Some(cast) = cast {
                    push(sql, &[" AS ", &type_name(cast), ")"]);
                }
                sql.push_str(" AS ");
                push_ident(sql, name);
            }
        }
    }

    fn expression(&mut self, expression: &Expression<'_>, from: &str, sql: &mut String) {
        let path = &expression.field.path;
        if !path.is_empty() {
            sql.push_str(if expression.to_json { "(pg_catalog.to_jsonb(" } else { "(" });
        }
        push(sql, &[from, "."]);
        push_ident(sql, &expression.field.name);
        if path.is_empty() {
            return;
        }
        if expression.to_json {
            sql.push(')');
        }
        for step in path {
            sql.push_str(if step.text { "->>" } else { "->" });
            match &step.operand {
                Operand::Key(key) => {
                    self.push_text(key, sql);
                    sql.push_str("::pg_catalog.text");
                }
                Operand::Index(index) => {
                    self.push_param(index.to_string(), sql);
                    sql.push_str("::pg_catalog.int4");
                }
            }
        }
        sql.push(')');
    }

    /// The conditions with their WHERE, or nothing.
    fn conditions(&mut self, conditions: &[Where<'_>], from: &str) -> String {
        let mut sql = String::new();
        let mut separator = " WHERE ";
        for condition in conditions {
            sql.push_str(separator);
            self.condition(condition, from, &mut sql);
            separator = " AND ";
        }
        sql
    }

    fn condition(&mut self, condition: &Where<'_>, from: &str, sql: &mut String) {
        match condition {
            Where::Group { negated, any, parts } => {
                sql.push_str(if *negated { "NOT (" } else { "(" });
                for (index, part) in parts.iter().enumerate() {
                    if index > 0 {
                        sql.push_str(if *any { " OR " } else { " AND " });
                    }
                    self.condition(part, from, sql);
                }
                sql.push(')');
            }
            Where::Filter { expression, filter, to_tsvector } => {
                if filter.negated {
                    sql.push_str("NOT (");
                }
                self.test(expression, from, filter, *to_tsvector, sql);
                if filter.negated {
                    sql.push(')');
                }
            }
        }
    }

    fn test(
        &mut self,
        expression: &Expression<'_>,
        from: &str,
        filter: &Filter,
        to_tsvector: bool,
        sql: &mut String,
    ) {
        let mut field = String::with_capacity(64);
        self.expression(expression, from, &mut field);
        match &filter.test {
            Test::Compare { operator, quantifier, value } => {
                push(sql, &[&field, " ", operator.sql, " "]);
                sql.push_str(match quantifier {
                    None => "",
                    Some(Quantifier::Any) => "ANY(",
                    Some(Quantifier::All) => "ALL(",
                });
                match operator.pattern {
                    true => self.push_param(value.replace('*', "%"), sql),
                    false => self.push_text(value, sql),
                }
                if quantifier.is_some() {
                    sql.push(')');
                }
            }
            Test::In(values) => {
                push(sql, &[&field, " = ANY("]);
                self.push_param(array_literal(values.iter().map(|value| &**value)), sql);
                sql.push(')');
            }
            Test::Is(_, value) => push(sql, &[&field, " IS ", value]),
            Test::Distinct(value) => {
                push(sql, &[&field, " IS DISTINCT FROM "]);
                self.push_text(value, sql);
            }
            Test::Search { function, config, value, .. } => {
                let config = match config {
                    Some(config) => self.text(config) + "::pg_catalog.regconfig, ",
                    None => String::new(),
                };
                let value = self.text(value);
                match to_tsvector {
                    true => push(sql, &["pg_catalog.to_tsvector(", &config, &field, ")"]),
                    false => sql.push_str(&field),
                }
                push(sql, &[" @@ pg_catalog.", function, "(", &config, &value, ")"]);
            }
        }
    }

    fn insert(&mut self, change: &Change<'_>, plan: &Plan<'_>) -> String {
        let target = table(change.relation);
        let returning = returning(change.relation, plan);
        if change.columns.is_empty() {
            return match change.payload {
                Payload::Array { json, .. } => {
                    let json = self.param(json.clone());
                    format!(
                        "INSERT INTO {target} SELECT FROM pg_catalog.json_array_elements({json}::pg_catalog.json) \
                         RETURNING {returning}"
                    )
                }
                _ => format!("INSERT INTO {target} DEFAULT VALUES RETURNING {returning}"),
            };
        }
        let names = names(&change.columns, "");
        let values = names_of(&change.columns);
        let body = self.body(change, false);
        format!("INSERT INTO {target}({names}) SELECT {values} FROM {body} RETURNING {returning}")
    }

    fn update(&mut self, change: &Change<'_>, conditions: &[Where<'_>], plan: &Plan<'_>) -> String {
        let target = table(change.relation);
        if change.columns.is_empty() {
            // Nothing to set changes nothing, and answers as a change of no row does.
            return format!("SELECT {} FROM {target} WHERE false", returning(change.relation, plan));
        }
        let body = self.body(change, true);
        let sets: Vec<String> =
            change.columns.iter().map(|column| format!("{0} = dw_body.{0}", ident(&column.name))).collect();
        let conditions = self.conditions(conditions, &target);
        let returning = returning(change.relation, plan);
        format!("UPDATE {target} SET {} FROM {body}{conditions} RETURNING {returning}", sets.join(", "))
    }

    /// The body's rows as a FROM item named `dw_body`.
    fn body(&mut self, change: &Change<'_>, only_first: bool) -> String {
        let types: Vec<String> = change
            .columns
            .iter()
            .map(|column| format!("{} {}", ident(&column.name), column.type_name))
            .collect();
        let types = types.join(", ");
        let array = matches!(change.payload, Payload::Array { .. });
        let json = self.param(change.payload.json().cloned().unwrap_or_default());
        if change.defaults {
            let defaults = self.defaults(change);
            let elements = match array {
                true => format!("pg_catalog.jsonb_array_elements({json}::pg_catalog.jsonb)"),
                false => format!("(SELECT {json}::pg_catalog.jsonb)"),
            };
            let limit = if only_first { " LIMIT 1" } else { "" };
            return format!(
                "(SELECT dw_record.* FROM {elements} AS dw_element(value), LATERAL pg_catalog.jsonb_to_record(\
                 pg_catalog.jsonb_build_object({defaults}) || dw_element.value) AS dw_record({types}){limit}) AS dw_body"
            );
        }
        match (array, only_first) {
            (false, _) => {
                format!("pg_catalog.json_to_record({json}::pg_catalog.json) AS dw_body({types})")
            }
            (true, false) => {
                format!("pg_catalog.json_to_recordset({json}::pg_catalog.json) AS dw_body({types})")
            }
            (true, true) => format!(
                "(SELECT dw_record.* FROM pg_catalog.json_to_recordset({json}::pg_catalog.json) \
                 AS dw_record({types}) LIMIT 1) AS dw_body"
            ),
        }
    }

    /// The defaults of the written columns, as arguments of `jsonb_build_object`.
    fn defaults(&mut self, change: &Change<'_>) -> String {
        let mut defaults = Vec::new();
        for column in &change.columns {
            if let Some(default) = self.default_value(change.relation, column) {
                let name = self.text(&column.name);
                defaults.push(format!("{name}::pg_catalog.text, {default}"));
            }
        }
        defaults.join(", ")
    }

    fn default_value(&mut self, relation: &Relation, column: &Column) -> Option<String> {
        if column.generated == Generated::IdentityByDefault {
            let (target, name) = (self.text(&table(relation)), self.text(&column.name));
            let sequence = format!("pg_catalog.pg_get_serial_sequence({target}, {name})");
            return Some(format!("pg_catalog.nextval({sequence}::pg_catalog.regclass)"));
        }
        default_of(column).map(|default| format!("({default})"))
    }

    fn call(&mut self, function: &Function, arguments: &CallArguments<'_>) -> String {
        let name = format!("{}.{}", ident(&function.schema), ident(&function.name));
        let (from, passed) = match arguments {
            CallArguments::Values(values) => {
                let passed: Vec<String> = values
                    .iter()
                    .map(|(argument, values)| {
                        let value = match argument.variadic {
                            true => self.param(array_literal(values.iter().copied())),
                            false => self.text(values.last().copied().unwrap_or_default()),
                        };
                        let variadic = if argument.variadic { "VARIADIC " } else { "" };
                        format!("{variadic}{} := {value}::{}", ident(&argument.name), argument.type_name)
                    })
                    .collect();
                (String::new(), passed)
            }
            CallArguments::Object(given, _) if given.is_empty() => (String::new(), Vec::new()),
            CallArguments::Object(given, payload) => {
                let json = self.param(payload.json().cloned().unwrap_or_default());
                let types: Vec<String> = given
                    .iter()
                    .map(|argument| format!("{} {}", ident(&argument.name), argument.type_name))
                    .collect();
                let passed = given
                    .iter()
                    .map(|argument| {
                        let variadic = if argument.variadic { "VARIADIC " } else { "" };
                        format!("{variadic}{0} := dw_arguments.{0}", ident(&argument.name))
                    })
                    .collect();
                let types = types.join(", ");
                let from = format!(
                    "pg_catalog.json_to_record({json}::pg_catalog.json) AS dw_arguments({types}), LATERAL "
                );
                (from, passed)
            }
            CallArguments::Whole(argument, payload) => {
                let json = self.param(payload.json().cloned().unwrap_or_default());
                (String::new(), vec![format!("{json}::{}", argument.type_name)])
            }
        };
        let passed = passed.join(", ");
        match function.returns.composite {
            true => format!("SELECT dw_call.* FROM {from}{name}({passed}) AS dw_call"),
            false => format!("SELECT dw_call.dw_value FROM {from}{name}({passed}) AS dw_call(dw_value)"),
        }
    }
}

fn names(columns: &[&Column], prefix: &str) -> String {
    columns.iter().map(|column| format!("{prefix}{}", ident(&column.name))).collect::<Vec<_>>().join(", ")
}

fn names_of(columns: &[&Column]) -> String {
    names(columns, "dw_body.")
}
