//! Node: which of our own processes a certificate is for: one URI among its subject alternative names.
//!
//! ```text
//! seriatim-node://store/s1
//! ```
//!
//! Another scheme than a user's, so that neither can be taken for the other.

use std::fmt;
use std::str::FromStr;

use x509_parser::prelude::{GeneralName, X509Certificate};

use super::NameProblem;
use super::name::{decoded, encoded};
use crate::limits;

/// What a process of ours is, and so what it may ask of which other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeRole {
    /// an operator's tools
    Admin,
    /// a program of somebody else's that asks the sequence service
    Application,
    /// a gateway
    Gateway,
    /// a logic node
    Logic,
    /// a store
    Store,
}

impl NodeRole {
    /// All of them.
    pub const ALL: [NodeRole; 5] = [Self::Admin, Self::Application, Self::Gateway, Self::Logic, Self::Store];

    /// As the URI has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Application => "application",
            Self::Gateway => "gateway",
            Self::Logic => "logic",
            Self::Store => "store",
        }
    }

    /// Is it dialled by others, so that its certificate names hosts?
    pub fn listens(self) -> bool {
        match self {
            Self::Admin | Self::Application => false,
            Self::Gateway | Self::Logic | Self::Store => true,
        }
    }
}

impl FromStr for NodeRole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("`{text}` is no role: say store, logic, gateway, application or admin"))
    }
}

/// Which process a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeName {
    /// what it is
    pub role: NodeRole,
    /// which one, for people
    pub name: String,
}

const SCHEME: &str = "seriatim-node://";

impl NodeName {
    /// With a name of 1 to [`limits::NAME_BYTES_MAX`] bytes and no control characters; `None` for others.
    pub fn new(role: NodeRole, name: &str) -> Option<Self> {
        let fits = !name.is_empty() && name.len() <= limits::NAME_BYTES_MAX as usize;
        (fits && !name.chars().any(char::is_control)).then(|| Self { role, name: name.to_owned() })
    }

    /// The one that the certificate has.
    pub fn of(certificate: &X509Certificate<'_>) -> Result<Self, NameProblem> {
        let names = certificate.subject_alternative_name().map_err(|_| NameProblem::Malformed)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let mut ours = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
            _ => None,
        });
        let first = ours.next().ok_or(NameProblem::Missing)?;
        if ours.next().is_some() {
            return Err(NameProblem::Several);
        }
        let parts = first.split_once('/').and_then(|(role, name)| Self::new(role.parse().ok()?, &decoded(name)?));
        parts.ok_or(NameProblem::Malformed)
    }
}

impl fmt::Display for NodeName {
    /// The URI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.role.name(), encoded(&self.name))
    }
}
