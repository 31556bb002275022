//! `raftctl session`: the sessions of devices over all gateways, and the end of some of them.

use std::io::{BufRead, IsTerminal};

use futures_util::future::join_all;
use serde_json::{Value, json};
use seriatim_proto::operator::{
    OperatorRequest, OperatorResponse, SESSIONS_MAX, SessionFilter, SessionLive, SessionStatus, WayIn,
};

use super::gateway::time;
use crate::cli::{Kick, SessionLs, Transport};
use crate::failure::{Exit, Failure};
use crate::operator::{self, Gateway, Gateways};
use crate::output::{self, List, maybe_number, number};
use crate::target::Target;

/// Sessions that one `kick` ends at most.
const KICK_MAX: usize = 10_000;

/// `session ls`: exit code 6 if a gateway does not answer.
pub(super) async fn ls(target: &Target, asked: &SessionLs, tenant: Option<u32>) -> Result<Exit, Failure> {
    if asked.limit == 0 {
        return Err(Failure::usage("--limit 0 shows nothing"));
    }
    let mut gateways = Gateways::survey(target).await?;
    if let Some(name) = &asked.gw {
        let door = gateways.find(name)?.door.clone();
        gateways.here.retain(|gateway| gateway.door == door);
        gateways.silent.clear();
    }
    let filter = SessionFilter {
        number: None,
        tenant,
        user: asked.user.clone(),
        device: asked.device.clone(),
        way: asked.transport.map(way_of),
    };
    let (mut found, mut more) = (Vec::new(), false);
    let ask = async |gateway: &Gateway| operator::sessions(gateway, &filter, asked.limit, &target.link).await;
    for (place, answer) in join_all(gateways.here.iter().map(ask)).await.into_iter().enumerate() {
        match answer {
            Ok((sessions, others)) => {
                found.extend(sessions.into_iter().map(|session| (place, session)));
                more |= others;
            }
            Err(failure) => gateways.silent.push((gateways.here[place].door.clone(), failure)),
        }
    }
    more |= found.len() > asked.limit;
    found.truncate(asked.limit);
    let mut list = List::new(
        "SessionList",
        &["id", "tenant", "user", "device", "transport", "peer", "since", "heard", "token", "inbox", "lag", "rtt"],
    );
    for (place, session) in &found {
        let live = session.live.as_ref();
        let owner = session.owner.as_ref();
        let inbox = live.and_then(|live| live.inbox);
        list.push(
            vec![
                id(&gateways.here[*place], session),
                output::dash(owner.map(|owner| owner.tenant)),
                output::dash(owner.map(|owner| owner.user.clone())),
                output::dash(owner.map(|owner| owner.device.clone())),
                way_name(session.way).to_owned(),
                session.peer.clone(),
                time(session.age_ms),
                output::dash(live.map(|live| time(live.heard_ms))),
                output::dash(live.and_then(|live| live.expires_ms).map(time)),
                output::dash(inbox.map(|inbox| inbox.position)),
                output::dash(inbox.map(|inbox| inbox.lag)),
                output::dash(live.and_then(|live| live.rtt_us).map(rtt)),
            ],
            item(&gateways.here[*place], session),
        );
    }
    gateways.warn();
    list.print(target.output)?;
    if more {
        eprintln!("there are more than {} sessions: say a larger --limit, or which ones", asked.limit);
    }
    Ok(if gateways.silent.is_empty() { Exit::Ok } else { Exit::Unreachable })
}

/// `session show`
pub(super) async fn show(target: &Target, text: &str) -> Result<Exit, Failure> {
    let gateways = Gateways::survey(target).await?;
    let (gateway, session) = find(target, &gateways, text).await?;
    let mut list = List::new("Session", &["what", "value"]);
    let mut row = |what: &str, value: String| list.rows.push(vec![what.to_owned(), value]);
    row("id", id(gateway, &session));
    match &session.owner {
        Some(owner) => {
            row("tenant", owner.tenant.to_string());
            row("user", owner.user.clone());
            row("device", owner.device.clone());
        }
        None => row("user", "not yet behind Welcome".to_owned()),
    }
    row("transport", way_name(session.way).to_owned());
    row("peer", session.peer.clone());
    row("since", time(session.age_ms));
    match &session.live {
        Some(live) => show_live(live, &mut row),
        None => row("its task", "did not answer in time".to_owned()),
    }
    list.items.push(item(gateway, &session));
    list.print(target.output)?;
    Ok(Exit::Ok)
}

fn show_live(live: &SessionLive, row: &mut impl FnMut(&str, String)) {
    row("last heard", format!("{} ago", time(live.heard_ms)));
    row("token ends in", output::dash(live.expires_ms.map(time)));
    row("round trip", output::dash(live.rtt_us.map(rtt)));
    row("received", output::bytes(live.received_bytes));
    row("sent", output::bytes(live.sent_bytes));
    row("waits for the device", output::bytes(live.queued_bytes));
    row("requests under way", live.requests.to_string());
    match live.inbox {
        Some(inbox) => {
            row("inbox given below", inbox.position.to_string());
            row("inbox credit", inbox.credit.to_string());
            row("inbox lag", inbox.lag.to_string());
        }
        None => row("inbox", "no subscription".to_owned()),
    }
}

/// `session kick`: exit code 3 if there is no such session, 6 if a gateway does not answer.
pub(super) async fn kick(target: &Target, asked: &Kick) -> Result<Exit, Failure> {
    let gateways = Gateways::survey(target).await?;
    let mut silent = !gateways.silent.is_empty();
    let mut found: Vec<(&Gateway, Vec<SessionStatus>)> = Vec::new();
    if let Some(text) = &asked.id {
        let (gateway, session) = find(target, &gateways, text).await?;
        found.push((gateway, vec![session]));
        silent = false;
    } else {
        gateways.warn();
        let (tenant, user) = (Some(target.tenant.0), asked.user.clone());
        let filter = SessionFilter { tenant, user, device: asked.device.clone(), ..SessionFilter::default() };
        for gateway in &gateways.here {
            let (sessions, more) = operator::sessions(gateway, &filter, KICK_MAX, &target.link).await?;
            if more {
                eprintln!(
                    "warning: {} has more than {KICK_MAX} of them: ask again for the others",
                    gateway.status.name
                );
            }
            found.push((gateway, sessions));
        }
    }
    if found.iter().all(|(_, sessions)| sessions.is_empty()) {
        let whose =
            format!("no session of user `{}` in tenant {}", asked.user.as_deref().unwrap_or("-"), target.tenant.0);
        let of = asked.device.as_ref().map(|device| format!(" with device `{device}`")).unwrap_or_default();
        return Err(if silent {
            Failure::unreachable(format!("{whose}{of} on the gateways that answer"))
        } else {
            Failure::not_found(format!("{whose}{of}")).hint("raftctl session ls")
        });
    }
    for (gateway, session) in found.iter().flat_map(|(gateway, all)| all.iter().map(move |one| (gateway, one))) {
        eprintln!("plan: end {} ({})", id(gateway, session), whose(session));
    }
    if !asked.dry_run {
        let count: usize = found.iter().map(|(_, sessions)| sessions.len()).sum();
        agree(asked.yes, &format!("end {count} sessions"))?;
    }
    let mut list = List::new("KickList", &["id", "user", "device", "state"]);
    for (gateway, sessions) in &found {
        for part in sessions.chunks(SESSIONS_MAX as usize) {
            let numbers: Vec<u64> = part.iter().map(|session| session.number).collect();
            let gone = if asked.dry_run { None } else { Some(end(target, gateway, numbers).await?) };
            for session in part {
                let state = match &gone {
                    None => "would be ended",
                    Some(gone) if gone.contains(&session.number) => "was gone",
                    Some(_) => "ended",
                };
                let owner = session.owner.as_ref();
                let (user, device) = (owner.map(|owner| &owner.user), owner.map(|owner| &owner.device));
                let id = id(gateway, session);
                list.push(
                    vec![id.clone(), output::dash(user), output::dash(device), state.to_owned()],
                    json!({"id": id, "user": user, "device": device, "state": state}),
                );
            }
        }
    }
    list.print(target.output)?;
    Ok(if silent { Exit::Unreachable } else { Exit::Ok })
}

/// Ends them; those that were gone.
async fn end(target: &Target, gateway: &Gateway, sessions: Vec<u64>) -> Result<Vec<u64>, Failure> {
    let request = OperatorRequest::Kick { incarnation: gateway.status.incarnation, sessions };
    match operator::ask(&gateway.door, &request, &target.link).await? {
        OperatorResponse::Kicked { gone, .. } => Ok(gone),
        other => Err(operator::unexpected(&gateway.door, &other)),
    }
}

/// Asks on a terminal, and wants `--yes` elsewhere.
pub(super) fn agree(yes: bool, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage(format!("nothing is done: to {what}, say --yes")).hint("--yes, or --dry-run"));
    }
    eprint!("{what}? [y/N] ");
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    match read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes") {
        true => Ok(()),
        false => Err(Failure::usage("nothing is done")),
    }
}

/// The session of an id.
async fn find<'a>(
    target: &Target,
    gateways: &'a Gateways,
    text: &str,
) -> Result<(&'a Gateway, SessionStatus), Failure> {
    let (name, incarnation, session) = parse(text)?;
    let gateway = gateways.find(name)?;
    let gone = || Failure::not_found(format!("there is no session {text}: it is over")).hint("raftctl session ls");
    if incarnation != gateway.status.incarnation {
        return Err(gone());
    }
    let filter = SessionFilter { number: Some(session), ..SessionFilter::default() };
    let request = OperatorRequest::Sessions { after: session.saturating_sub(1), count: 1, filter };
    match operator::ask(&gateway.door, &request, &target.link).await? {
        OperatorResponse::Sessions { sessions, .. } => {
            sessions.into_iter().next().map(|session| (gateway, session)).ok_or_else(gone)
        }
        other => Err(operator::unexpected(&gateway.door, &other)),
    }
}

/// `GATEWAY/START-NUMBER`, as [`id`] writes it.
fn parse(text: &str) -> Result<(&str, u16, u64), Failure> {
    let parsed = text.rsplit_once('/').and_then(|(name, rest)| {
        let (incarnation, number) = rest.split_once('-')?;
        let incarnation = Some(incarnation).filter(|digits| digits.len() == 4)?;
        Some((name, u16::from_str_radix(incarnation, 16).ok()?, number.parse().ok()?))
    });
    parsed.filter(|(name, ..)| !name.is_empty()).ok_or_else(|| {
        Failure::usage(format!("`{text}` is no id of a session, such as gateway-1/3f2a-17")).hint("raftctl session ls")
    })
}

fn id(gateway: &Gateway, session: &SessionStatus) -> String {
    format!("{}/{:04x}-{}", gateway.status.name, gateway.status.incarnation, session.number)
}

fn whose(session: &SessionStatus) -> String {
    let owner = session.owner.as_ref();
    let owner = owner.map(|owner| format!("tenant {}, user {}, device {}", owner.tenant, owner.user, owner.device));
    format!("{}, {} from {}", owner.unwrap_or_else(|| "nobody yet".to_owned()), way_name(session.way), session.peer)
}

fn item(gateway: &Gateway, session: &SessionStatus) -> Value {
    let (owner, live) = (session.owner.as_ref(), session.live.as_ref());
    let inbox = live.and_then(|live| live.inbox);
    json!({
        "id": id(gateway, session),
        "gateway": gateway.status.name,
        "tenant": owner.map(|owner| owner.tenant),
        "user": owner.map(|owner| &owner.user),
        "device": owner.map(|owner| &owner.device),
        "transport": way_name(session.way),
        "peer": session.peer,
        "ageMs": number(session.age_ms),
        "answered": live.is_some(),
        "heardMs": maybe_number(live.map(|live| live.heard_ms)),
        "tokenLeftMs": maybe_number(live.and_then(|live| live.expires_ms)),
        "rttUs": maybe_number(live.and_then(|live| live.rtt_us)),
        "receivedBytes": maybe_number(live.map(|live| live.received_bytes)),
        "sentBytes": maybe_number(live.map(|live| live.sent_bytes)),
        "queuedBytes": maybe_number(live.map(|live| live.queued_bytes)),
        "requests": maybe_number(live.map(|live| live.requests)),
        "inbox": inbox.map(|inbox| json!({
            "position": number(inbox.position),
            "credit": number(inbox.credit),
            "lag": number(inbox.lag),
        })),
    })
}

fn rtt(us: u64) -> String {
    if us < 10_000 { format!("{us} µs") } else { format!("{} ms", us / 1_000) }
}

pub(super) fn way_name(way: WayIn) -> &'static str {
    match way {
        WayIn::Quic => "quic",
        WayIn::WebTransport => "webtransport",
        WayIn::WebSocket => "websocket",
    }
}

fn way_of(transport: Transport) -> WayIn {
    match transport {
        Transport::Quic => WayIn::Quic,
        Transport::Webtransport => WayIn::WebTransport,
        Transport::Websocket => WayIn::WebSocket,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is_one() {
        assert_eq!(parse("gateway-1/00ff-17").unwrap(), ("gateway-1", 255, 17));
        assert_eq!(parse("127.0.0.1:4433/3f2a-1").unwrap(), ("127.0.0.1:4433", 0x3f2a, 1));
        for wrong in
            ["", "17", "gateway-1", "gateway-1/17", "gateway-1/ff-17", "g/00ff-", "g/00ff-x", "/00ff-1", "g/zzzz-1"]
        {
            let failure = parse(wrong).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{wrong}");
        }
    }
}
