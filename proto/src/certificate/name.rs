//! Name: whom a client certificate is for: one URI among its subject alternative names.
//!
//! ```text
//! seriatim://7/alice                            tenant 7, user alice, a device
//! seriatim://7/alice?scopes=device,sequence     as the claim `scopes` of a token
//! seriatim://7/j%C3%BCrgen%2F2                  names are percent-encoded UTF-8
//! ```

use std::fmt;

use x509_parser::prelude::{GeneralName, X509Certificate};

use crate::ids::{TenantId, UserId};
use crate::logic::Scopes;

/// Whom a certificate is for, and what it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// tenant
    pub tenant: TenantId,
    /// user
    pub user: UserId,
    /// what it allows
    pub scopes: Scopes,
}

/// Why a certificate does not name one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// No URI of ours.
    #[error("names no user: it has no URI `seriatim://TENANT/USER`")]
    Missing,
    /// More than one.
    #[error("names more than one user")]
    Several,
    /// One that is not as it should be.
    #[error("has a URI `seriatim://` that is not of the form `seriatim://TENANT/USER[?scopes=…]`")]
    Malformed,
}

impl NameProblem {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Missing => "no_name",
            Self::Several => "several_names",
            Self::Malformed => "malformed_name",
        }
    }
}

const SCHEME: &str = "seriatim://";
const SCOPES: &str = "scopes=";

impl Name {
    /// The one that the certificate has.
    pub fn of(certificate: &X509Certificate<'_>) -> Result<Self, NameProblem> {
        let names = certificate.subject_alternative_name().map_err(|_| NameProblem::Malformed)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let mut ours = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        });
        let first = ours.next().ok_or(NameProblem::Missing)?;
        if ours.next().is_some() {
            return Err(NameProblem::Several);
        }
        Self::parse(first)
    }

    /// From the URI.
    pub fn parse(uri: &str) -> Result<Self, NameProblem> {
        Self::parts(uri).ok_or(NameProblem::Malformed)
    }

    fn parts(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix(SCHEME)?;
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let (tenant, user) = place.split_once('/')?;
        // One way to write each number.
        let number = tenant.parse::<u32>().ok().filter(|number| number.to_string() == tenant)?;
        let scopes = match query {
            None => Scopes::DEVICE,
            Some(query) => {
                let names: Vec<_> = query.strip_prefix(SCOPES)?.split(',').map(str::to_owned).collect();
                Scopes::from_names(&names)
            }
        };
        Some(Self { tenant: TenantId(number), user: UserId::new(&decoded(user)?).ok()?, scopes })
    }
}

impl fmt::Display for Name {
    /// The URI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.tenant.0, encoded(self.user.as_str()))?;
        if self.scopes != Scopes::DEVICE {
            write!(f, "?{SCOPES}{}", self.scopes.names().join(","))?;
        }
        Ok(())
    }
}

/// May it stand in a URI's path as it is (RFC 3986, unreserved)?
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

pub(super) fn encoded(text: &str) -> String {
    let one = |byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    loop {
        match rest {
            [] => return String::from_utf8(bytes).ok(),
            [b'%', high, low, tail @ ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                rest = tail;
            }
            [byte, tail @ ..] if is_plain(*byte) => {
                bytes.push(*byte);
                rest = tail;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for (user, scopes, uri) in [
            ("alice", Scopes::DEVICE, "seriatim://7/alice"),
            ("jürgen/2 %?", Scopes::SEQUENCE, "seriatim://7/j%C3%BCrgen%2F2%20%25%3F?scopes=sequence"),
            ("a.b-c_d~e", Scopes { device: true, sequence: true }, "seriatim://7/a.b-c_d~e?scopes=device,sequence"),
            ("nobody", Scopes::default(), "seriatim://7/nobody?scopes="),
        ] {
            let name = Name { tenant: TenantId(7), user: UserId::new(user).unwrap(), scopes };
            assert_eq!(name.to_string(), uri);
            assert_eq!(Name::parse(uri), Ok(name));
        }
    }

    #[test]
    fn what_is_not_of_the_form_names_nobody() {
        for uri in [
            "seriatim://",
            "seriatim://7",
            "seriatim://7/",
            "seriatim:///alice",
            "seriatim://07/alice",
            "seriatim://+7/alice",
            "seriatim://-1/alice",
            "seriatim://4294967296/alice",
            "seriatim://seven/alice",
            "seriatim://7/alice/",
            "seriatim://7/alice/bob",
            "seriatim://7/alice#bob",
            "seriatim://7/alice@bob",
            "seriatim://7/a lice",
            "seriatim://7/al%",
            "seriatim://7/al%2",
            "seriatim://7/al%zz",
            "seriatim://7/al%00",
            "seriatim://7/%ff",
            "seriatim://7/alice?",
            "seriatim://7/alice?scope=device",
            "seriatim://7/alice?x=1&scopes=device",
            "SERIATIM://7/alice",
            &format!("seriatim://7/{}", "x".repeat(65)),
        ] {
            assert_eq!(Name::parse(uri), Err(NameProblem::Malformed), "{uri}");
        }
        // A scope that this version does not know allows nothing.
        assert_eq!(Name::parse("seriatim://7/alice?scopes=admin").unwrap().scopes, Scopes::default());
    }
}
