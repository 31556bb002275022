//! `raftctl conformance`: holds a gateway against the numbered claims of docs/conformance.md, over the wire.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use seriatim_client::raw::{RawError, RawTarget, RawTransport};
use seriatim_proto::error::Refusal;

use crate::cli::{self, Transport};
use crate::conformance::{CASES, Claim, End, Knock, Outcome, Scene, Site, Tokens, claims};
use crate::device::resolve;
use crate::failure::{Exit, Failure};
use crate::output::List;
use crate::target::{Target, read_token};

/// A case waits for many answers, each for `--timeout` at most; all of them together for so many times as long.
const CASE_TIMEOUTS: u32 = 30;

/// `conformance`
pub(super) async fn conformance(target: &Target, asked: &cli::Conformance) -> Result<Exit, Failure> {
    let claims = claims();
    let chosen = choose(&claims, &asked.cases)?;
    if asked.list {
        return list(&chosen).print(target.output).map(|()| Exit::Ok);
    }
    let gateway = target.gateway()?;
    let (host, _) = gateway.rsplit_once(':').ok_or_else(|| Failure::usage(format!("`{gateway}` is no host:port")))?;
    let raw = RawTarget::new(resolve(gateway)?, host.trim_matches(['[', ']']), &target.ca_pem()?)
        .map_err(|error| Failure::usage(format!("failed to prepare for {gateway}: {error}")))?;
    let mut report = Report::default();
    for transport in &asked.transport {
        let site = Site {
            target: raw.clone(),
            transport: transport.raw(),
            patience: target.link.timeout,
            tokens: tokens(target, asked)?,
            run: format!("conf-{:08x}", rand::random::<u32>()),
        };
        site.knock().await.map_err(|knock| knock_failure(gateway, *transport, &knock))?;
        if let Err(failure) = judge(&site, *transport, gateway, &chosen, &mut report).await {
            report.list.print(target.output)?;
            return Err(failure);
        }
    }
    report.list.print(target.output)?;
    for (transport, counts) in &report.counts {
        let Counts { passed, failed, skipped } = counts;
        eprintln!("{transport}: {passed} passed, {failed} failed, {skipped} skipped");
    }
    let sum = |count: fn(&Counts) -> u32| report.counts.values().map(count).sum::<u32>();
    if sum(|counts| counts.failed) > 0 {
        return Ok(Exit::Violation);
    }
    if sum(|counts| counts.passed) == 0 {
        return Err(Failure::precondition("nothing was judged: every case that was chosen is skipped")
            .hint("the reasons are in the list; raftctl conformance --list"));
    }
    Ok(Exit::Ok)
}

impl Transport {
    fn raw(self) -> RawTransport {
        match self {
            Self::Quic => RawTransport::Quic,
            Self::Webtransport => RawTransport::WebTransport,
            Self::Websocket => RawTransport::WebSocket,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Webtransport => "webtransport",
            Self::Websocket => "websocket",
        }
    }
}

/// How many of what, on one way in.
#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

struct Report {
    list: List,
    counts: BTreeMap<&'static str, Counts>,
}

impl Default for Report {
    fn default() -> Self {
        let list = List::new("Conformance", &["case", "transport", "verdict", "claim, or what came"]);
        Self { list, counts: BTreeMap::new() }
    }
}

impl Report {
    fn take(&mut self, transport: Transport, claim: &Claim, outcome: Outcome) {
        let counts = self.counts.entry(transport.word()).or_default();
        let (verdict, detail, count) = match outcome {
            Ok(()) => ("passed", None, &mut counts.passed),
            Err(End::Failed(words)) => ("failed", Some(words), &mut counts.failed),
            Err(End::Skipped(words)) => ("skipped", Some(words), &mut counts.skipped),
        };
        *count += 1;
        let text = detail.clone().unwrap_or_else(|| claim.text.to_owned());
        self.list.push(
            vec![claim.number.to_owned(), transport.word().to_owned(), verdict.to_owned(), text],
            json!({
                "case": claim.number,
                "transport": transport.word(),
                "judges": claim.judges.word(),
                "claim": claim.text,
                "verdict": verdict,
                "detail": detail,
            }),
        );
    }
}

/// Asks one case after the other. A gateway that is gone is not asked for the rest.
async fn judge(
    site: &Site,
    transport: Transport,
    gateway: &str,
    chosen: &[Claim],
    report: &mut Report,
) -> Result<(), Failure> {
    for claim in chosen {
        let outcome = match CASES.iter().find(|case| case.number == claim.number) {
            Some(case) => {
                let scene = Scene { site, number: claim.number };
                let most = site.patience * CASE_TIMEOUTS;
                let ran = tokio::time::timeout(most, Box::pin(case.run(&scene))).await;
                ran.unwrap_or_else(|_| Err(End::Failed(format!("not done within {} s", most.as_secs()))))
            }
            None => Err(End::Skipped("judges an SDK: see docs/conformance.md".to_owned())),
        };
        let failed = matches!(outcome, Err(End::Failed(_)));
        report.take(transport, claim, outcome);
        if failed && let Err(knock @ Knock::Connect(_)) = site.knock().await {
            let failure = knock_failure(gateway, transport, &knock);
            let message = format!("behind {}: {}", claim.number, failure.message);
            return Err(Failure { message, ..failure });
        }
    }
    Ok(())
}

/// The claims about a gateway, or those that are named: `C-014`, `C-02x`.
fn choose(claims: &[Claim], names: &[String]) -> Result<Vec<Claim>, Failure> {
    if names.is_empty() {
        return Ok(claims.iter().filter(|claim| claim.judges.is_gateway()).copied().collect());
    }
    let is_named = |claim: &Claim, name: &str| {
        let name = name.to_ascii_uppercase();
        let fixed = name.trim_end_matches('X');
        name.len() == claim.number.len() && claim.number.starts_with(fixed)
    };
    for name in names {
        if !claims.iter().any(|claim| is_named(claim, name)) {
            return Err(Failure::usage(format!("there is no case `{name}`")).hint("raftctl conformance --list"));
        }
    }
    Ok(claims.iter().filter(|claim| names.iter().any(|name| is_named(claim, name))).copied().collect())
}

fn list(chosen: &[Claim]) -> List {
    let mut list = List::new("ConformanceCaseList", &["case", "judges", "claim"]);
    for claim in chosen {
        list.push(
            vec![claim.number.to_owned(), claim.judges.word().to_owned(), claim.text.to_owned()],
            json!({"case": claim.number, "judges": claim.judges.word(), "claim": claim.text}),
        );
    }
    list
}

/// Tokens that were given, or else those that the development key signs.
fn tokens(target: &Target, asked: &cli::Conformance) -> Result<Tokens, Failure> {
    let more = |file: &Option<std::path::PathBuf>| file.as_deref().map(read_token).transpose();
    if target.has_token() {
        let (other, sequence) = (more(&asked.peer_token_file)?, more(&asked.sequence_token_file)?);
        return Ok(Tokens::Given { one: target.given_token()?, other, sequence });
    }
    if let Some(file) = asked.peer_token_file.as_deref().or(asked.sequence_token_file.as_deref()) {
        return Err(lonely(file));
    }
    Ok(Tokens::Minted { minter: target.minter()?, tenant: target.tenant })
}

fn lonely(file: &Path) -> Failure {
    Failure::usage(format!("{} is another one's token: --token-file is missing", file.display()))
}

fn knock_failure(gateway: &str, transport: Transport, knock: &Knock) -> Failure {
    let act = format!("failed to connect to the gateway at {gateway} over {}", transport.word());
    match knock {
        Knock::Connect(error @ RawError::Unreachable(_)) => Failure::unreachable(format!("{act}: {error}")),
        Knock::Connect(error @ RawError::Handshake(_)) => {
            Failure::usage(format!("{act}: {error}")).hint("--ca of the CA that signed the gateway's certificate")
        }
        Knock::Connect(error @ RawError::Refused(_)) => {
            Failure::unreachable(format!("{act}: {error}")).hint("--transport of a way in that it has")
        }
        Knock::Token(code) => {
            let refusal = Refusal::new(*code, "the gateway takes none of these tokens");
            Failure::refused(&act, &refusal)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Result<Vec<&'static str>, Failure> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        Ok(choose(&claims(), &names)?.iter().map(|claim| claim.number).collect())
    }

    #[test]
    fn cases_are_chosen_by_number_and_by_tens() {
        assert_eq!(chosen(&["C-014", "c-05x"]).unwrap(), ["C-014", "C-050", "C-051", "C-052"]);
        assert_eq!(chosen(&["C-060"]).unwrap(), ["C-060"], "also of an SDK, which is skipped");
        assert_eq!(chosen(&["C-xxx"]).unwrap().len(), claims().len());
        assert!(!chosen(&[]).unwrap().contains(&"C-060"));
        for wrong in ["C-999", "C-", "", "C-0145", "014", "x"] {
            assert_eq!(chosen(&["C-014", wrong]).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_run_is_counted_and_says_what_came() {
        let mut report = Report::default();
        let claim = claims()[0];
        let outcomes = [Ok(()), Err(End::Failed("expected 1, came 2".to_owned())), Err(End::Skipped("no".to_owned()))];
        for outcome in outcomes {
            report.take(Transport::Quic, &claim, outcome);
        }
        let Counts { passed, failed, skipped } = report.counts["quic"];
        assert_eq!((passed, failed, skipped), (1, 1, 1));
        let verdicts: Vec<_> = report.list.items.iter().map(|item| item["verdict"].clone()).collect();
        assert_eq!(verdicts, ["passed", "failed", "skipped"]);
        assert_eq!(report.list.rows[0][3], claim.text);
        assert_eq!(report.list.rows[1][3], "expected 1, came 2");
    }
}
