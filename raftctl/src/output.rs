//! Output: data on stdout, as a table for people or as JSON for programs.
//!
//! JSON is a contract: `{"apiVersion":"raftctl/v1","kind":…,"items":[…]}`. Numbers of 64 bits are strings, because
//! JavaScript's are not that long.

use std::io::Write;

use comfy_table::Table;
use comfy_table::presets;
use serde_json::{Value, json};

use crate::cli::Format;
use crate::failure::Failure;

/// Version of the JSON contract.
pub(crate) const API_VERSION: &str = "raftctl/v1";

/// What a verb found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct List {
    /// of the items
    pub(crate) kind: &'static str,
    /// of the table
    pub(crate) columns: Vec<&'static str>,
    /// of the table
    pub(crate) rows: Vec<Vec<String>>,
    /// of the JSON
    pub(crate) items: Vec<Value>,
}

impl List {
    /// Nothing yet.
    pub(crate) fn new(kind: &'static str, columns: &[&'static str]) -> Self {
        Self { kind, columns: columns.to_vec(), rows: Vec::new(), items: Vec::new() }
    }

    /// One more, in both forms.
    pub(crate) fn push(&mut self, row: Vec<String>, item: Value) {
        self.rows.push(row);
        self.items.push(item);
    }

    /// Those of another list behind it.
    pub(crate) fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.items.extend(other.items);
    }

    /// To stdout.
    pub(crate) fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Table => {
                let mut table = Table::new();
                table.load_style(presets::NOTHING);
                table.set_header(self.columns.iter().map(|column| column.to_uppercase()));
                for row in &self.rows {
                    table.add_row(row);
                }
                let text: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
                print_text(&text.join("\n"))
            }
            Format::Json => {
                print_text(&json!({"apiVersion": API_VERSION, "kind": self.kind, "items": self.items}).to_string())
            }
        }
    }
}

/// One line or several, to stdout. A reader that went away (`| head`) is no failure of ours.
pub(crate) fn print_text(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::internal(format!("write to stdout: {error}"))),
    }
}

/// A number of 64 bits.
pub(crate) fn number(value: u64) -> Value {
    Value::String(value.to_string())
}

/// A number of 64 bits that may be absent.
pub(crate) fn maybe_number(value: Option<u64>) -> Value {
    value.map_or(Value::Null, number)
}

/// For a table: a dash where there is nothing.
pub(crate) fn dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => format!("{count} B"),
        10_000..=9_999_999 => format!("{} KiB", count >> 10),
        10_000_000..=9_999_999_999 => format!("{} MiB", count >> 20),
        _ => format!("{} GiB", count >> 30),
    }
}
