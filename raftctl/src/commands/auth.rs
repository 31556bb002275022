//! `raftctl auth`: tokens and the keys that verify them, without a cluster.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use seriatim_proto::ids::UserId;
use seriatim_proto::logic::Scopes;
use seriatim_proto::token::{KeySet, Verifier, unverified};

use crate::failure::{Exit, Failure};
use crate::output::{List, dash, print_text};
use crate::target::Target;

/// `auth inspect`
pub(super) fn inspect(target: &Target, keys: Option<&Path>) -> Result<Exit, Failure> {
    let verifier = Verifier::new(read_keys(target, keys)?);
    let token = target.given_token()?;
    let verdict = verifier.check(&token);
    let (algorithm, kid, claims) = match unverified(&token) {
        Some(said) => (Some(said.algorithm), said.kid, said.claims),
        None => (None, None, Value::Null),
    };
    let claim =
        |name: &str| claims.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let (reason, why) = match &verdict {
        Ok(_) => (None, "accepted".to_owned()),
        Err(error) => (Some(error.reason()), format!("refused: {error}")),
    };
    let mut list = List::new("TokenReport", &["what", "says"]);
    let rows = [
        ("verdict", Some(why.clone())),
        ("algorithm", algorithm.clone()),
        ("key", kid.clone()),
        ("tenant", claim("tenant")),
        ("user", claim("sub")),
        ("audience", claim("aud")),
        ("scopes", claim("scopes")),
        ("begins", claims.get("nbf").and_then(Value::as_u64).map(when)),
        ("ends", claims.get("exp").and_then(Value::as_u64).map(when)),
    ];
    for (what, says) in rows {
        list.rows.push(vec![what.to_owned(), dash(says)]);
    }
    list.items.push(json!({
        "accepted": verdict.is_ok(),
        "reason": reason,
        "message": why,
        "algorithm": algorithm,
        "kid": kid,
        "claims": claims,
    }));
    list.print(target.output)?;
    Ok(if verdict.is_ok() { Exit::Ok } else { Exit::Forbidden })
}

/// `auth keys`
pub(super) fn keys(target: &Target, keys: Option<&Path>) -> Result<Exit, Failure> {
    let set = read_keys(target, keys)?;
    let mut list = List::new("KeyList", &["key", "algorithm", "used"]);
    for info in set.infos() {
        let used = info.passed_over.map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}"));
        list.push(
            vec![dash(info.kid.clone()), info.algorithm.clone(), used],
            json!({
                "kid": info.kid,
                "algorithm": info.algorithm,
                "used": info.passed_over.is_none(),
                "reason": info.passed_over,
            }),
        );
    }
    list.print(target.output)?;
    Ok(Exit::Ok)
}

/// `auth mint`
pub(super) fn mint(target: &Target, user: &str, scopes: &[String], life: Duration) -> Result<Exit, Failure> {
    let user = UserId::new(user).map_err(|error| Failure::usage(format!("the user: {error}")))?;
    print_text(&target.mint(&user, self::scopes(scopes)?, life)?).map(|()| Exit::Ok)
}

/// Those named, or a device's.
pub(super) fn scopes(names: &[String]) -> Result<Scopes, Failure> {
    let allowed = if names.is_empty() { Scopes::DEVICE } else { Scopes::from_names(names) };
    match names.iter().find(|name| !allowed.names().contains(name)) {
        Some(unknown) => Err(Failure::usage(format!("`{unknown}` is no scope")).hint("device, sequence")),
        None => Ok(allowed),
    }
}

/// A second of Unix time, and how far it is from now.
fn when(at_s: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if at_s >= now { format!("{at_s} (in {} s)", at_s - now) } else { format!("{at_s} ({} s ago)", now - at_s) }
}

fn read_keys(target: &Target, keys: Option<&Path>) -> Result<KeySet, Failure> {
    let path: PathBuf = keys.map(Path::to_owned).or_else(|| target.token_public_key.clone()).ok_or_else(|| {
        Failure::usage("whose keys? --keys FILE is missing")
            .hint("--keys FILE: a JWKS as the issuer publishes it, or a public key as PEM")
    })?;
    let bytes = std::fs::read(&path)
        .map_err(|error| Failure::usage(format!("failed to read the keys {}: {error}", path.display())))?;
    KeySet::parse(&bytes).map_err(|error| Failure::usage(format!("failed to use the keys {}: {error}", path.display())))
}
