//! The rows of a batch and the one statement that stores them. Never talks to a database.

use super::OnConflict;
use serde_json::json;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

/// Rows of one statement together, bytes: PostgreSQL takes a value of 1 GiB, and needs several times as much to read it.
const STATEMENT_BYTES_MAX: usize = 16 << 20;

/// A row as a JSON object, and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    id: String,
    /// Without its closing brace.
    json: Vec<u8>,
}

impl Row {
    pub(super) fn new(id_column: &str, id: String) -> Self {
        let mut json = json!({ id_column: id }).to_string().into_bytes();
        json.pop();
        Self { id, json }
    }

    /// Adds a column; `value` is JSON, and stays as it is written: a decimal keeps its digits.
    pub(super) fn set(&mut self, column: &str, value: &[u8]) {
        self.json.push(b',');
        self.json.extend_from_slice(json!(column).to_string().as_bytes());
        self.json.push(b':');
        self.json.extend_from_slice(value);
    }
}

/// The rows of a batch, each with the places of its records: of several with one id, the last one's row counts.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<(Row, Vec<usize>)>,
    by_id: HashMap<String, usize>,
}

impl Rows {
    /// Adds the row of the record at this place.
    pub(super) fn add(&mut self, record: usize, row: Row) {
        // One statement must not touch a row twice.
        match self.by_id.get(&row.id) {
            Some(at) => {
                let (same, records) = &mut self.rows[*at];
                *same = row;
                records.push(record);
            }
            None => {
                self.by_id.insert(row.id.clone(), self.rows.len());
                self.rows.push((row, vec![record]));
            }
        }
    }

    /// The records of one row.
    pub(super) fn records(&self, row: usize) -> &[usize] {
        &self.rows[row].1
    }

    /// The rows, cut where one statement would be too large.
    pub(super) fn statements(&self) -> Vec<Range<usize>> {
        let (mut statements, mut start, mut bytes) = (Vec::new(), 0, 0);
        for (at, (row, _)) in self.rows.iter().enumerate() {
            if bytes > 0 && bytes + row.json.len() > STATEMENT_BYTES_MAX {
                statements.push(start..at);
                (start, bytes) = (at, 0);
            }
            bytes += row.json.len() + 2;
        }
        statements.extend((start < self.rows.len()).then_some(start..self.rows.len()));
        statements
    }

    /// Some rows as a JSON array.
    pub(super) fn json(&self, rows: Range<usize>) -> String {
        let mut json = vec![b'['];
        for (row, _) in &self.rows[rows] {
            if json.len() > 1 {
                json.push(b',');
            }
            json.extend_from_slice(&row.json);
            json.push(b'}');
        }
        json.push(b']');
        // Made of texts and of JSON that was checked.
        String::from_utf8_lossy(&json).into_owned()
    }
}

/// The statement that stores rows; prints as its table.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    table: String,
    sql: String,
}

impl Statement {
    pub(super) fn new<'a>(
        table: &str,
        id: &str,
        columns: impl Iterator<Item = &'a String> + Clone,
        on_conflict: OnConflict,
    ) -> Self {
        let quoted = |name: &str| format!("\"{name}\"");
        let target = table.split('.').map(quoted).collect::<Vec<_>>().join(".");
        let all = std::iter::once(quoted(id)).chain(columns.clone().map(|name| quoted(name)));
        let all = all.collect::<Vec<_>>().join(", ");
        let set = columns.map(|name| format!("{0} = EXCLUDED.{0}", quoted(name))).collect::<Vec<_>>().join(", ");
        let action = match on_conflict {
            OnConflict::Update => format!("UPDATE SET {set}"),
            OnConflict::Nothing => "NOTHING".to_owned(),
        };
        let sql = format!(
            "INSERT INTO {target} ({all}) SELECT {all} FROM jsonb_populate_recordset(NULL::{target}, $1::text::jsonb) \
             ON CONFLICT ({}) DO {action}",
            quoted(id)
        );
        Self { table: table.to_owned(), sql }
    }

    pub(super) fn sql(&self) -> &str {
        &self.sql
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, value: &str) -> Row {
        let mut row = Row::new("id", id.to_owned());
        row.set("a\"b", value.as_bytes());
        row
    }

    #[test]
    fn a_batch_is_one_array_and_a_row_is_touched_once() {
        let mut rows = Rows::default();
        for (at, (id, value)) in [("x", "1.50"), ("y\"", "null"), ("x", "{\"n\":2}")].into_iter().enumerate() {
            rows.add(at, row(id, value));
        }
        assert_eq!(rows.statements(), std::slice::from_ref(&(0..2)));
        assert_eq!(rows.json(0..2), r#"[{"id":"x","a\"b":{"n":2}},{"id":"y\"","a\"b":null}]"#);
        assert_eq!((rows.records(0), rows.records(1)), (&[0, 2][..], &[1][..]));
        assert!(Rows::default().statements().is_empty());
    }

    #[test]
    fn what_is_too_large_for_a_statement_is_several() {
        let mut rows = Rows::default();
        let large = format!("\"{}\"", "x".repeat(9 << 20));
        for at in 0..3 {
            rows.add(at, row(&at.to_string(), &large));
        }
        assert_eq!(rows.statements(), [0..1, 1..2, 2..3]);
    }

    #[test]
    fn names_are_quoted_and_the_conflict_is_decided() {
        let columns = ["at".to_owned(), "user".to_owned()];
        let update = Statement::new("app.events", "id", columns.iter(), OnConflict::Update);
        assert_eq!(
            update.sql(),
            "INSERT INTO \"app\".\"events\" (\"id\", \"at\", \"user\") SELECT \"id\", \"at\", \"user\" FROM \
             jsonb_populate_recordset(NULL::\"app\".\"events\", $1::text::jsonb) ON CONFLICT (\"id\") DO UPDATE SET \"at\" = \
             EXCLUDED.\"at\", \"user\" = EXCLUDED.\"user\""
        );
        let nothing = Statement::new("events", "id", columns.iter(), OnConflict::Nothing);
        assert!(nothing.sql().ends_with("ON CONFLICT (\"id\") DO NOTHING"), "{}", nothing.sql());
    }
}
