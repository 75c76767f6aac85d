//! Rows as comma-separated values (RFC 4180), for spreadsheets and loaders.

use doorward_core::Timestamp;

use crate::columns::{COLUMNS, Type};
use crate::query::{Cell, Row};
use crate::time::rfc3339;

/// The line of names.
pub fn csv_heading() -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    format!("{}\r\n", names.join(","))
}

/// One row as a line. A value is quoted when it has to be; what is not known is empty, and an empty text is `""`.
pub fn csv(row: &Row) -> String {
    let field = |(column, cell): (&crate::columns::Column, &Cell)| match (column.ty, cell) {
        (_, Cell::Null) => String::new(),
        (Type::Time, Cell::Int(micros)) => rfc3339(Timestamp::from_micros(*micros)),
        (_, Cell::Int(number)) => number.to_string(),
        (_, Cell::Text(text)) => quoted(text),
    };
    let fields: Vec<String> = COLUMNS.iter().zip(row.cells()).map(field).collect();
    format!("{}\r\n", fields.join(","))
}

fn quoted(text: &str) -> String {
    if !text.is_empty() && !text.contains(['"', ',', '\r', '\n']) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_field_for_each_name_and_quotes_what_needs_it() {
        let cell = |name: &str| match name {
            "ts" => Cell::Int(0),
            "status" => Cell::Int(200),
            "operation" => Cell::Text("SELECT \"a\",\nb".to_owned()),
            "door" => Cell::Text(String::new()),
            _ => Cell::Null,
        };
        let row = Row::new(COLUMNS.iter().map(|column| cell(column.name)).collect());
        let line = csv(&row);
        assert!(line.starts_with("1970-01-01T00:00:00.000000Z,,"), "{line}");
        assert!(line.contains(",\"SELECT \"\"a\"\",\nb\","), "{line}");
        assert!(line.contains(",\"\","), "{line}");
        let commas = |text: &str| text.matches(',').count();
        // One comma stands in quotes.
        assert_eq!(commas(&line), commas(&csv_heading()) + 1);
    }
}
