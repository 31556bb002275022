//! Catalogue: every kind of fault, and which of them the product must survive today.

use super::{Hold, Nemesis};

/// A kind of fault.
pub struct Kind {
    /// such as `kill-leader`
    pub name: &'static str,
    /// such as `kill`; names on the command line are kinds or families
    pub family: &'static str,
    /// one sentence
    pub about: &'static str,
    /// is it in the set `all`: must the product survive it today?
    pub in_all: bool,
    /// how long it lasts
    pub hold: Hold,
    /// a new one
    pub make: fn() -> Box<dyn Nemesis>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All kinds.
#[derive(Debug)]
pub struct Catalogue;

impl Catalogue {
    /// Every kind, in the order in which people read them.
    pub fn kinds() -> &'static [Kind] {
        &[]
    }

    /// Kinds by names: kinds, families, `all`, `none`; an error names what is unknown.
    pub fn select(names: &[&str]) -> Result<Vec<&'static Kind>, String> {
        match names.iter().find(|name| !["all", "none"].contains(name)) {
            Some(unknown) => Err(format!("`{unknown}` is no fault; see `jepsen list`")),
            None => Ok(Vec::new()),
        }
    }
}
