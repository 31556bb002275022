//! Denied: what must be refused, and was or was not.
//!
//! # Invariants
//! A2 (I14).

use super::rule::Rule;
use super::verdict::{Evidence, Findings};
use crate::history::{INBOX_FILE, Seen};

/// Judges an attempt.
pub(crate) fn check(line: u64, seen: &Seen, findings: &mut Findings) {
    if let Seen::Denied { what, at, refused: false, .. } = seen {
        findings.add(Rule::A2, what, *at, || {
            (format!("{what} was not refused"), vec![Evidence::new(INBOX_FILE, line, seen)])
        });
    }
}
