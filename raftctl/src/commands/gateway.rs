//! `raftctl gateway`: gateways as they say themselves, drained and given their certificates anew.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use seriatim_proto::operator::{GatewayStatus, OperatorRequest, OperatorResponse, WayIn};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::cert;
use super::session::{agree, way_name};
use crate::failure::{Exit, Failure};
use crate::operator::{self, Gateway, Gateways};
use crate::output::{self, List, maybe_number, number};
use crate::target::Target;

/// Pause between two looks at a gateway that is drained.
const LOOK: Duration = Duration::from_millis(200);
/// Time behind the deadline for the last connections to be gone.
const GRACE: Duration = Duration::from_secs(5);

/// `gateway ls`: exit code 10 if one does not answer.
pub(super) async fn ls(target: &Target) -> Result<Exit, Failure> {
    let gateways = Gateways::survey(target).await?;
    let mut list = List::new(
        "GatewayList",
        &["gateway", "address", "state", "quic", "webtransport", "websocket", "sessions", "certificate", "version"],
    );
    for gateway in &gateways.here {
        let status = &gateway.status;
        let of = |way| count(status, way).to_string();
        let ends = Served::of(status)?.ends();
        list.push(
            vec![
                status.name.clone(),
                status.address.clone(),
                state(status).to_owned(),
                of(WayIn::Quic),
                of(WayIn::WebTransport),
                of(WayIn::WebSocket),
                status.sessions.to_string(),
                ends,
                status.version.clone(),
            ],
            item(gateway)?,
        );
    }
    for (door, failure) in &gateways.silent {
        let mut row = vec![door.clone(), "-".to_owned(), "unreachable".to_owned()];
        row.resize(9, "-".to_owned());
        list.push(row, json!({"door": door, "state": "unreachable", "why": failure.message}));
    }
    list.print(target.output)?;
    gateways.silent.iter().for_each(|(_, failure)| eprintln!("warning: {}", failure.message));
    Ok(if gateways.silent.is_empty() { Exit::Ok } else { Exit::Unhealthy })
}

/// `gateway show`
pub(super) async fn show(target: &Target, name: &str) -> Result<Exit, Failure> {
    print(target, Gateways::survey(target).await?.find(name)?)?;
    Ok(Exit::Ok)
}

/// How a gateway is drained.
pub(super) struct Drain {
    pub(super) deadline: Duration,
    pub(super) undo: bool,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
}

/// `gateway drain`: exit code 10 if somebody is left.
pub(super) async fn drain(target: &Target, name: &str, how: &Drain) -> Result<Exit, Failure> {
    let gateways = Gateways::survey(target).await?;
    let gateway = gateways.find(name)?;
    let (status, called) = (&gateway.status, &gateway.status.name);
    if how.undo {
        eprintln!("plan: {called} takes devices again; those that were told to go still go");
        if how.dry_run {
            return print(target, gateway).map(|()| Exit::Ok);
        }
        let status = operator::status(&gateway.door, &OperatorRequest::Undrain, &target.link).await?;
        return print(target, &Gateway { door: gateway.door.clone(), status }).map(|()| Exit::Ok);
    }
    let before = total(status);
    let deadline_ms = u64::try_from(how.deadline.as_millis()).unwrap_or(u64::MAX);
    if deadline_ms > seriatim_proto::operator::DRAIN_MS_MAX {
        return Err(Failure::usage("a drain takes at most an hour: say a shorter --deadline"));
    }
    let how_many = counted(before);
    eprintln!("plan: {called} takes nobody new and sends {how_many} elsewhere within {:?}", how.deadline);
    let others = gateways.here.iter().filter(|other| other.door != gateway.door && !other.status.draining).count();
    if others == 0 {
        eprintln!("warning: no other gateway that takes devices has answered: they may have nowhere to go");
    }
    if how.dry_run {
        return print(target, gateway).map(|()| Exit::Ok);
    }
    agree(how.yes, &format!("drain {called}"))?;
    let request = OperatorRequest::Drain { deadline_ms };
    let mut status = operator::status(&gateway.door, &request, &target.link).await?;
    let until = Instant::now() + how.deadline;
    let mut at_deadline = total(&status);
    while total(&status) > 0 && Instant::now() < until + GRACE {
        if Instant::now() < until {
            at_deadline = total(&status);
        }
        tokio::time::sleep(LOOK).await;
        status = operator::status(&gateway.door, &OperatorRequest::Status, &target.link).await?;
    }
    let left = total(&status);
    if Instant::now() >= until {
        eprintln!("at the deadline {} of {before} were there and were closed; left: {left}", counted(at_deadline));
    } else {
        eprintln!("{how_many} went by themselves");
    }
    eprintln!("{called} stays drained until it is started again, or: raftctl gateway drain {called} --undo");
    print(target, &Gateway { door: gateway.door.clone(), status })?;
    Ok(if left == 0 { Exit::Ok } else { Exit::Unhealthy })
}

/// `gateway reload-cert`: exit code 4 if the files cannot be used, 10 if what is served has ended.
pub(super) async fn reload_cert(target: &Target, name: &str) -> Result<Exit, Failure> {
    let gateways = Gateways::survey(target).await?;
    let gateway = gateways.find(name)?;
    let before = Served::of(&gateway.status)?;
    match operator::ask(&gateway.door, &OperatorRequest::ReloadCertificate, &target.link).await? {
        OperatorResponse::Status(status) => {
            let served = Served::of(&status)?;
            let changed = gateway.status.certificate != status.certificate;
            let news = if changed { "a new certificate is served" } else { "the same certificate is served as before" };
            eprintln!("{}: {news}", status.name);
            print(target, &Gateway { door: gateway.door.clone(), status: *status })?;
            if served.left < 0 {
                eprintln!("warning: it is over since {}", served.ends());
            }
            Ok(if served.left < 0 { Exit::Unhealthy } else { Exit::Ok })
        }
        OperatorResponse::NotReloaded { why, status } => {
            let text = format!("failed to reload the certificate of {}: {why}", status.name);
            let text = format!("{text}; the one that ends {} is served on", before.ends());
            Err(Failure::precondition(text).hint(format!("raftctl gateway show {}", status.name)))
        }
        other => Err(operator::unexpected(&gateway.door, &other)),
    }
}

fn counted(connections: u64) -> String {
    format!("{connections} connection{}", if connections == 1 { "" } else { "s" })
}

fn print(target: &Target, gateway: &Gateway) -> Result<(), Failure> {
    let mut list = List::new("Gateway", &["what", "value"]);
    let (status, served) = (&gateway.status, Served::of(&gateway.status)?);
    let mut row = |what: &str, value: String| list.rows.push(vec![what.to_owned(), value]);
    row("name", status.name.clone());
    row("address", status.address.clone());
    row("door for operators", gateway.door.clone());
    row("version", status.version.clone());
    row("up", time(status.up_ms));
    row("state", state(status).to_owned());
    if let Some(left) = status.drain_left_ms {
        row("devices may stay", time(left));
    }
    for (way, connections) in &status.connections {
        row(way_name(*way), counted(*connections));
    }
    row("sessions", status.sessions.to_string());
    row("calls under way", status.calls.to_string());
    row("waits for devices", output::bytes(status.queued_bytes));
    row("links to logic nodes", status.links.to_string());
    row("certificate", served.names.join(" "));
    row("certificate ends", served.ends());
    for hash in &status.webtransport_hashes {
        row("webtransport sha-256", hash.clone());
    }
    list.items.push(item(gateway)?);
    list.print(target.output)
}

fn item(gateway: &Gateway) -> Result<Value, Failure> {
    let status = &gateway.status;
    let served = Served::of(status)?;
    let connections: serde_json::Map<_, _> =
        status.connections.iter().map(|(way, count)| (way_name(*way).to_owned(), number(*count))).collect();
    Ok(json!({
        "name": status.name,
        "address": status.address,
        "door": gateway.door,
        "version": status.version,
        "upMs": number(status.up_ms),
        "state": state(status),
        "drainLeftMs": maybe_number(status.drain_left_ms),
        "connections": connections,
        "sessions": number(status.sessions),
        "calls": number(status.calls),
        "queuedBytes": number(status.queued_bytes),
        "links": number(status.links),
        "certificate": {
            "names": served.names,
            "serial": served.serial,
            "ends": served.ends(),
            "secondsLeft": served.left.to_string(),
        },
        "webtransportHashes": status.webtransport_hashes,
    }))
}

/// What the certificate says.
struct Served {
    names: Vec<String>,
    serial: String,
    ends_s: i64,
    left: i64,
}

impl Served {
    fn of(status: &GatewayStatus) -> Result<Self, Failure> {
        let (_, certificate) = X509Certificate::from_der(&status.certificate)
            .map_err(|error| Failure::internal(format!("{} shows what is no certificate: {error}", status.name)))?;
        let ends_s = certificate.validity().not_after.timestamp();
        let now = i64::try_from(cert::now()?.as_secs()).unwrap_or(i64::MAX);
        Ok(Self {
            names: cert::names(&certificate),
            serial: certificate.raw_serial_as_string(),
            ends_s,
            left: ends_s.saturating_sub(now),
        })
    }

    fn ends(&self) -> String {
        cert::date(self.ends_s)
    }
}

fn state(status: &GatewayStatus) -> &'static str {
    match (status.draining, total(status), status.links) {
        (true, 0, _) => "drained",
        (true, ..) => "draining",
        (false, _, 0) => "no logic node",
        (false, ..) => "ready",
    }
}

fn total(status: &GatewayStatus) -> u64 {
    status.connections.iter().map(|(_, count)| count).sum()
}

fn count(status: &GatewayStatus, way: WayIn) -> u64 {
    status.connections.iter().filter(|(other, _)| *other == way).map(|(_, count)| count).sum()
}

/// For people.
pub(super) fn time(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
