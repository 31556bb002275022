//! Rules: which URL is ours, and which web pages may connect.
//!
//! A session is nobody's without a token in its Hello, and no browser sends one by itself; still, a page that nobody
//! asked for must not use somebody's browser to reach a gateway. Programs that are no browser send no `Origin`.

use http::StatusCode;
use seriatim_proto::wire::lane;

/// Which web pages may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    allowed: Vec<String>,
}

impl Origins {
    /// These origins (`https://chat.example`, `*` for all). Without any: pages of the gateway's own host, on any port.
    pub fn new(allowed: Vec<String>) -> Self {
        Self { allowed }
    }

    fn allow(&self, origin: &str, authority: Option<&str>) -> bool {
        if self.allowed.is_empty() {
            let host = origin.split_once("://").map(|(_, authority)| host_of(authority));
            return host.is_some_and(|host| authority.map(host_of).is_some_and(|own| own.eq_ignore_ascii_case(host)));
        }
        self.allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }
}

/// Is this request for us? The status to refuse it with, if not. The protocols are those that the client offers.
pub(crate) fn check<'a>(
    origins: &Origins,
    path: &str,
    origin: Option<&str>,
    authority: Option<&str>,
    protocols: impl IntoIterator<Item = &'a str>,
) -> Result<Offered, StatusCode> {
    if path != lane::PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    if origin.is_some_and(|origin| !origins.allow(origin, authority)) {
        return Err(StatusCode::FORBIDDEN);
    }
    let mut offered = Offered::Nothing;
    for protocol in protocols {
        if protocol.as_bytes() == seriatim_proto::wire::ALPN {
            return Ok(Offered::Ours);
        }
        offered = Offered::Others;
    }
    Ok(offered)
}

/// Which subprotocols a client offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offered {
    Nothing,
    Others,
    Ours,
}

/// The host of `host:port`.
fn host_of(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.split_inclusive(']').next().unwrap_or(authority);
    }
    authority.split(':').next().unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_the_own_host_or_of_the_list_may_connect() {
        let own = Origins::default();
        assert!(own.allow("http://localhost:8080", Some("localhost:4433")));
        assert!(own.allow("https://[::1]:8080", Some("[::1]:4433")));
        assert!(own.allow("https://Chat.example", Some("chat.example")));
        for origin in ["https://evil.example", "https://chat.example.evil.example", "null", "", "chat.example"] {
            assert!(!own.allow(origin, Some("chat.example:443")), "{origin}");
        }
        assert!(!own.allow("https://chat.example", None));
        let listed = Origins::new(vec!["https://chat.example".into()]);
        assert!(listed.allow("https://chat.example", Some("gateway.example")));
        assert!(!listed.allow("https://gateway.example", Some("gateway.example")));
        assert!(!listed.allow("http://chat.example", Some("gateway.example")));
        assert!(Origins::new(vec!["*".into()]).allow("null", None));
    }

    #[test]
    fn the_path_comes_first_then_the_page_then_the_protocol() {
        let check = |path, origin, protocols: &[&str]| {
            check(&Origins::default(), path, origin, Some("a:1"), protocols.iter().copied())
        };
        assert_eq!(check("/", Some("http://b"), &[]), Err(StatusCode::NOT_FOUND));
        assert_eq!(check("/seriatim-1", Some("http://b"), &[]), Err(StatusCode::FORBIDDEN));
        assert_eq!(check("/seriatim-1", Some("http://a"), &[]), Ok(Offered::Nothing));
        assert_eq!(check("/seriatim-1", None, &["x", "y"]), Ok(Offered::Others));
        assert_eq!(check("/seriatim-1", None, &["x", "seriatim-1"]), Ok(Offered::Ours));
    }
}
