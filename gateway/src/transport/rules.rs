//! Rules: which URL is ours, and which web pages may connect.
//!
//! A session is nobody's without a token in its Hello, and no browser sends one by itself; still, a page that nobody
//! asked for must not use somebody's browser to reach a gateway. Programs that are no browser send no `Origin`.
//!
//! That a request names the page's own host proves nothing: whoever owns a domain can let it lead to a gateway's address
//! (DNS rebinding), and a browser that knows a certificate by its hash does not look at names. So without a list only
//! hosts that the gateway's certificate names are its own.

use std::sync::Arc;

use http::StatusCode;
use seriatim_proto::wire::lane;

use crate::certificate::Certificates;

/// Which web pages may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    allowed: Vec<String>,
}

impl Origins {
    /// These origins (`https://chat.example`, `*` for all). Without any: pages of the host by which the gateway was
    /// asked, on any port, if its certificate names that host.
    pub fn new(allowed: Vec<String>) -> Self {
        Self { allowed }
    }

    fn allow(&self, origin: &str, authority: Option<&str>, is_ours: impl Fn(&str) -> bool) -> bool {
        if self.allowed.is_empty() {
            let host = origin.split_once("://").map(|(_, authority)| host_of(authority));
            let asked = authority.map(host_of);
            return host
                .is_some_and(|host| asked.is_some_and(|asked| asked.eq_ignore_ascii_case(host)) && is_ours(host));
        }
        self.allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }
}

/// Which pages may connect, and what the gateway is called.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) origins: Arc<Origins>,
    pub(crate) certificates: Arc<Certificates>,
}

impl Rules {
    /// Is this request for us? The status to refuse it with, if not. The protocols are those that the client offers.
    pub(crate) fn check<'a>(
        &self,
        path: &str,
        origin: Option<&str>,
        authority: Option<&str>,
        protocols: impl IntoIterator<Item = &'a str>,
    ) -> Result<Offered, StatusCode> {
        check(&self.origins, |host| self.certificates.name(host), path, origin, authority, protocols)
    }
}

fn check<'a>(
    origins: &Origins,
    is_ours: impl Fn(&str) -> bool,
    path: &str,
    origin: Option<&str>,
    authority: Option<&str>,
    protocols: impl IntoIterator<Item = &'a str>,
) -> Result<Offered, StatusCode> {
    if path != lane::PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    if origin.is_some_and(|origin| !origins.allow(origin, authority, is_ours)) {
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
        let is_ours = |host: &str| ["localhost", "[::1]", "Chat.example", "chat.example"].contains(&host);
        let own = |origin, authority| Origins::default().allow(origin, authority, is_ours);
        assert!(own("http://localhost:8080", Some("localhost:4433")));
        assert!(own("https://[::1]:8080", Some("[::1]:4433")));
        assert!(own("https://Chat.example", Some("chat.example")));
        for origin in ["https://evil.example", "https://chat.example.evil.example", "null", "", "chat.example"] {
            assert!(!own(origin, Some("chat.example:443")), "{origin}");
        }
        assert!(!own("https://chat.example", None));
        // Ours, but asked by another name; and a stranger's name that leads to us.
        assert!(!own("https://chat.example", Some("localhost")));
        assert!(!own("https://evil.example", Some("evil.example:443")));
        let listed = Origins::new(vec!["https://chat.example".into()]);
        let listed = |origin, authority| listed.allow(origin, authority, |_| false);
        assert!(listed("https://chat.example", Some("gateway.example")));
        assert!(!listed("https://gateway.example", Some("gateway.example")));
        assert!(!listed("http://chat.example", Some("gateway.example")));
        assert!(Origins::new(vec!["*".into()]).allow("null", None, is_ours));
    }

    #[test]
    fn the_path_comes_first_then_the_page_then_the_protocol() {
        let check = |path, origin, protocols: &[&str]| {
            check(&Origins::default(), |host| host == "a", path, origin, Some("a:1"), protocols.iter().copied())
        };
        assert_eq!(check("/", Some("http://b"), &[]), Err(StatusCode::NOT_FOUND));
        assert_eq!(check("/seriatim-1", Some("http://b"), &[]), Err(StatusCode::FORBIDDEN));
        assert_eq!(check("/seriatim-1", Some("http://a"), &[]), Ok(Offered::Nothing));
        assert_eq!(check("/seriatim-1", None, &["x", "y"]), Ok(Offered::Others));
        assert_eq!(check("/seriatim-1", None, &["x", "seriatim-1"]), Ok(Offered::Ours));
    }
}
