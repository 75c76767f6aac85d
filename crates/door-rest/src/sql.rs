//! Stage three: a [`Plan`] → one SQL text and its parameters.
//!
//! Invariants: every value of the request is a parameter, every identifier is quoted, and type names are
//! quoted or come from a fixed list or the catalogue; so the text depends on the form of the request
//! alone, and preparing it once per form is enough. The names that begin with `dw` are the gateway's;
//! none of them is ever looked up without its qualifier.

use std::borrow::Cow;
use std::fmt::Write;

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
}

/// Writes the statement of a plan.
pub(crate) fn write(plan: &Plan<'_>) -> Statement {
    let mut writer = Writer::default();
    let (with, from) = match &plan.source {
        Source::Relation(relation) => (String::new(), table(relation)),
        Source::Insert(change) => (writer.insert(change, plan), "dw_source".to_owned()),
        Source::Update(change, conditions) => {
            (writer.update(change, conditions, plan), "dw_source".to_owned())
        }
        Source::Delete(relation, conditions) => {
            let conditions = writer.conditions(conditions, &table(relation));
            let returning = returning(relation, plan);
            let target = table(relation);
            (format!("DELETE FROM {target}{conditions} RETURNING {returning}"), "dw_source".to_owned())
        }
        Source::Call(function, arguments) => (writer.call(function, arguments), "dw_source".to_owned()),
    };
    let conditions = writer.conditions(&plan.root.conditions, &from);
    let total = match plan.count {
        true => format!("(SELECT pg_catalog.count(*) FROM {from}{conditions})"),
        false => "NULL::pg_catalog.int8".to_owned(),
    };
    // A bound on what is answered of a change does not bound what was changed.
    let changes = matches!(plan.source, Source::Insert(_) | Source::Update(..) | Source::Delete(..));
    let counted = match changes && plan.root.limit.is_some() {
        true => "(SELECT pg_catalog.count(*) FROM dw_source)",
        false => "pg_catalog.count(*)",
    };
    let rows = writer.rows(&plan.root, &from, &conditions, plan);
    let body = match plan.only_one {
        true => only_one(body(plan.form), counted),
        false => body(plan.form).to_owned(),
    };
    let key = key(plan);
    let with = if with.is_empty() { with } else { format!("WITH dw_source AS ({with}) ") };
    writer.statement.text = format!(
        "{with}SELECT {total}, {counted}, {body}, \
         nullif(pg_catalog.current_setting('response.headers', true), ''), \
         nullif(pg_catalog.current_setting('response.status', true), ''){key} FROM ({rows}) AS dw"
    );
    writer.statement
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
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn table(relation: &Relation) -> String {
    format!("{}.{}", ident(&relation.schema), ident(&relation.name))
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
    /// Adds a parameter and gives its place.
    fn param(&mut self, value: impl Into<Bytes>) -> String {
        self.statement.params.push(value.into());
        format!("${}", self.statement.params.len())
    }

    fn text(&mut self, value: &str) -> String {
        self.param(Bytes::copy_from_slice(value.as_bytes()))
    }

    fn rows(&mut self, node: &Node<'_>, from: &str, conditions: &str, plan: &Plan<'_>) -> String {
        let mut sql = match plan.form {
            BodyForm::Values | BodyForm::Value => format!("SELECT {from}.dw_value FROM {from}{conditions}"),
            // Without a body only the number of rows counts.
            BodyForm::Empty => format!("SELECT 1 FROM {from}{conditions}"),
            BodyForm::Rows | BodyForm::Row => {
                let items: Vec<String> = node.items.iter().map(|item| self.output(item, from)).collect();
                let items = if items.is_empty() { format!("{from}.*") } else { items.join(", ") };
                format!("SELECT {items} FROM {from}{conditions}")
            }
        };
        let mut separator = " ORDER BY ";
        for (expression, order) in &node.order {
            let expression = self.expression(expression, from);
            let direction = match order.descending {
                Some(true) => " DESC",
                Some(false) => " ASC",
                None => "",
            };
            let nulls = match order.nulls_first {
                Some(true) => " NULLS FIRST",
                Some(false) => " NULLS LAST",
                None => "",
            };
            // Writing to a string cannot fail.
            let _ = write!(sql, "{separator}{expression}{direction}{nulls}");
            separator = ", ";
        }
        if let Some(limit) = node.limit {
            let limit = self.text(&limit.to_string());
            let _ = write!(sql, " LIMIT {limit}");
        }
        if node.offset > 0 {
            let offset = self.text(&node.offset.to_string());
            let _ = write!(sql, " OFFSET {offset}");
        }
        sql
    }

    fn output(&mut self, item: &Output<'_>, from: &str) -> String {
        match item {
            Output::Star => format!("{from}.*"),
            Output::Column { expression, name, cast } => {
                let value = self.expression(expression, from);
                let name = ident(name);
                match cast {
                    Some(cast) => format!("CAST({value} AS {}) AS {name}", type_name(cast)),
                    None => format!("{value} AS {name}"),
                }
            }
        }
    }

    fn expression(&mut self, expression: &Expression<'_>, from: &str) -> String {
        let column = format!("{from}.{}", ident(&expression.field.name));
        if expression.field.path.is_empty() {
            return column;
        }
        let mut sql =
            if expression.to_json { format!("(pg_catalog.to_jsonb({column})") } else { format!("({column}") };
        for step in &expression.field.path {
            sql.push_str(if step.text { "->>" } else { "->" });
            let operand = match &step.operand {
                Operand::Key(key) => format!("{}::pg_catalog.text", self.text(key)),
                Operand::Index(index) => format!("{}::pg_catalog.int4", self.text(&index.to_string())),
            };
            sql.push_str(&operand);
        }
        sql.push(')');
        sql
    }

    fn conditions(&mut self, conditions: &[Where<'_>], from: &str) -> String {
        let parts: Vec<String> = conditions.iter().map(|condition| self.condition(condition, from)).collect();
        if parts.is_empty() { String::new() } else { format!(" WHERE {}", parts.join(" AND ")) }
    }

    fn condition(&mut self, condition: &Where<'_>, from: &str) -> String {
        match condition {
            Where::Group { negated, any, parts } => {
                let parts: Vec<String> = parts.iter().map(|part| self.condition(part, from)).collect();
                let not = if *negated { "NOT " } else { "" };
                format!("{not}({})", parts.join(if *any { " OR " } else { " AND " }))
            }
            Where::Filter { expression, filter, to_tsvector } => {
                let field = self.expression(expression, from);
                let test = self.test(&field, filter, *to_tsvector);
                if filter.negated { format!("NOT ({test})") } else { test }
            }
        }
    }

    fn test(&mut self, field: &str, filter: &Filter, to_tsvector: bool) -> String {
        match &filter.test {
            Test::Compare { operator, quantifier, value } => {
                let value = match operator.pattern {
                    true => self.text(&value.replace('*', "%")),
                    false => self.text(value),
                };
                match quantifier {
                    None => format!("{field} {} {value}", operator.sql),
                    Some(Quantifier::Any) => format!("{field} {} ANY({value})", operator.sql),
                    Some(Quantifier::All) => format!("{field} {} ALL({value})", operator.sql),
                }
            }
            Test::In(values) => {
                let values = self.param(array_literal(values.iter().map(|value| &**value)));
                format!("{field} = ANY({values})")
            }
            Test::Is(_, sql) => format!("{field} IS {sql}"),
            Test::Distinct(value) => format!("{field} IS DISTINCT FROM {}", self.text(value)),
            Test::Search { function, config, value, .. } => {
                let config = match config {
                    Some(config) => format!("{}::pg_catalog.regconfig, ", self.text(config)),
                    None => String::new(),
                };
                let value = self.text(value);
                let field = match to_tsvector {
                    true => format!("pg_catalog.to_tsvector({config}{field})"),
                    false => field.to_owned(),
                };
                format!("{field} @@ pg_catalog.{function}({config}{value})")
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
