//! `raftctl cert`: a CA of one's own, the certificates that it signs for devices and nodes, and what a certificate says.
//!
//! Nothing here asks a cluster but `status` and `nodes`. A file that is there is never written over, and a private key is readable
//! by its owner alone from its first byte on.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use serde_json::{Value, json};
use seriatim_proto::certificate::{Name, NodeName, NodeRole};
use seriatim_proto::ids::UserId;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::auth;
use crate::cli::Issue;
use crate::failure::{Exit, Failure};
use crate::output::List;
use crate::target::Target;

/// A certificate is good a little before it is made: clocks differ.
const SKEW: Duration = Duration::from_secs(5 * 60);
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// `cert init-ca`
pub(super) fn init_ca(target: &Target, folder: &Path, name: &str, life: Duration) -> Result<Exit, Failure> {
    let (chain, key_file) = ca_files(folder);
    let key = make_key()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_times(&mut params, end(life)?)?;
    let own = params.self_signed(&key).map_err(|error| failed("make the CA", &error))?;
    fs::create_dir_all(folder).map_err(|error| failed(&format!("make the folder {}", folder.display()), &error))?;
    write_pair((&chain, &own.pem()), (&key_file, &key.serialize_pem()))?;
    made(target, &chain, &key_file)
}

/// `cert issue`
pub(super) fn issue(target: &Target, wanted: &Issue) -> Result<Exit, Failure> {
    let ca = Ca::read(&wanted.ca_folder)?;
    let end = end(wanted.life)?;
    if end.as_secs() > ca.ends_at_s {
        return Err(Failure::precondition(format!(
            "the certificate would outlive its CA, which ends {}",
            date(i64::try_from(ca.ends_at_s).unwrap_or(i64::MAX))
        ))
        .hint("a shorter --for, or a new CA: raftctl cert init-ca"));
    }
    let mut params = CertificateParams::default();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    set_times(&mut params, end)?;
    let uri = match (&wanted.user, wanted.role) {
        (Some(user), None) => for_device(target, wanted, user, &mut params)?,
        (None, Some(role)) => for_node(wanted, role, &mut params)?,
        _ => return Err(Failure::usage("for whom? --user USER for a device, or --role ROLE for a node")),
    };
    let uri = uri.as_str().try_into().map_err(|error| failed("name the certificate", &error))?;
    params.subject_alt_names.push(SanType::URI(uri));
    let key = make_key()?;
    let own = params.signed_by(&key, &ca.issuer).map_err(|error| failed("sign the certificate", &error))?;
    let named = |end: &str| {
        let mut name = wanted.out.clone().into_os_string();
        name.push(end);
        PathBuf::from(name)
    };
    let (chain, key_file) = (named(".pem"), named("-key.pem"));
    write_pair((&chain, &own.pem()), (&key_file, &key.serialize_pem()))?;
    made(target, &chain, &key_file)
}

fn for_device(target: &Target, wanted: &Issue, user: &str, params: &mut CertificateParams) -> Result<String, Failure> {
    if !wanted.hosts.is_empty() || wanted.name.is_some() {
        return Err(Failure::usage("a device has neither --host nor --name"));
    }
    let user = UserId::new(user).map_err(|error| Failure::usage(format!("the user: {error}")))?;
    params.distinguished_name.push(DnType::CommonName, user.as_str());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(Name { tenant: target.tenant, user, scopes: auth::scopes(&wanted.scopes)? }.to_string())
}

fn for_node(wanted: &Issue, role: NodeRole, params: &mut CertificateParams) -> Result<String, Failure> {
    if !wanted.scopes.is_empty() {
        return Err(Failure::usage("a node has no --scopes"));
    }
    let name = wanted.name.as_deref().ok_or_else(|| Failure::usage("which node? --name NAME is missing"))?;
    let node =
        NodeName::new(role, name).ok_or_else(|| Failure::usage("the name: 1 to 64 bytes, no control characters"))?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    match role {
        NodeRole::Admin | NodeRole::Application if wanted.hosts.is_empty() => {}
        NodeRole::Admin | NodeRole::Application => {
            return Err(Failure::usage(format!("{} listens nowhere: leave out --host", role.name())));
        }
        NodeRole::Gateway | NodeRole::Logic | NodeRole::Store => {
            if wanted.hosts.is_empty() {
                return Err(Failure::usage("by which names is it reached? --host HOST is missing"));
            }
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            let hosts = wanted.hosts.iter().map(|host| only_host(host)).collect::<Result<Vec<_>, _>>()?;
            let hosts = CertificateParams::new(hosts).map_err(|error| Failure::usage(format!("--host: {error}")))?;
            params.subject_alt_names = hosts.subject_alt_names;
        }
    }
    Ok(node.to_string())
}

/// A name or an address, without a port: a certificate has none.
fn only_host(host: &str) -> Result<String, Failure> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if bare.parse::<std::net::IpAddr>().is_err() && bare.contains([':', '/', '[', ']']) {
        return Err(Failure::usage(format!("--host {host}: say the name or address alone, without a port")));
    }
    Ok(bare.to_owned())
}

/// `cert show`
pub(super) fn show(target: &Target, files: &[PathBuf]) -> Result<Exit, Failure> {
    let mut list = list();
    for file in files {
        let bytes = read(file)?;
        let mut any = false;
        for (number, pem) in Pem::iter_from_buffer(&bytes).enumerate() {
            let pem = pem.map_err(|error| unusable(file, &error))?;
            if pem.label != "CERTIFICATE" {
                continue;
            }
            let certificate = pem.parse_x509().map_err(|error| unusable(file, &error))?;
            push(&mut list, &format!("{}#{}", file.display(), number + 1), &certificate, &[])?;
            any = true;
        }
        if !any {
            return Err(unusable(file, &"no certificate in it"));
        }
    }
    list.print(target.output)?;
    Ok(Exit::Ok)
}

/// The columns of `show` and `status`.
pub(super) fn list() -> List {
    List::new("CertificateList", &["where", "for", "issuer", "begins", "ends", "left"])
}

/// What a certificate says, with more for programs.
pub(super) fn push(
    list: &mut List,
    place: &str,
    certificate: &X509Certificate<'_>,
    more: &[(&str, Value)],
) -> Result<i64, Failure> {
    let begins = certificate.validity().not_before.timestamp();
    let ends = certificate.validity().not_after.timestamp();
    let now = i64::try_from(now()?.as_secs()).unwrap_or(i64::MAX);
    let left = ends.saturating_sub(now);
    let (user, node) = (Name::of(certificate).ok(), NodeName::of(certificate).ok());
    let names = names(certificate);
    let subject = certificate.subject().to_string();
    let whose = if certificate.is_ca() {
        format!("CA {subject}")
    } else if names.is_empty() {
        subject.clone()
    } else {
        names.join(" ")
    };
    let issuer = certificate.issuer().to_string();
    let mut item = json!({
        "where": place,
        "subject": subject,
        "issuer": issuer,
        "serial": certificate.raw_serial_as_string(),
        "names": names,
        "tenant": user.as_ref().map(|name| name.tenant.0),
        "user": user.as_ref().map(|name| name.user.as_str()),
        "scopes": user.as_ref().map(|name| name.scopes.names()),
        "role": node.as_ref().map(|node| node.role.name()),
        "node": node.as_ref().map(|node| node.name.as_str()),
        "isCa": certificate.is_ca(),
        "begins": date(begins),
        "ends": date(ends),
        "secondsLeft": left.to_string(),
    });
    for (key, value) in more {
        item[*key] = value.clone();
    }
    let days = if left < 0 { "over".to_owned() } else { format!("{} d", left / (24 * 3600)) };
    list.push(vec![place.to_owned(), whose, issuer, date(begins), date(ends), days], item);
    Ok(left)
}

pub(super) fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => (*text).to_owned(),
        GeneralName::IPAddress(bytes) => ip(bytes).unwrap_or_else(|| name.to_string()),
        other => other.to_string(),
    };
    names.iter().map(text).collect()
}

fn ip(bytes: &[u8]) -> Option<String> {
    let four: Result<[u8; 4], _> = bytes.try_into();
    let sixteen: Result<[u8; 16], _> = bytes.try_into();
    let four = four.map(|octets| std::net::IpAddr::from(octets).to_string());
    four.or_else(|_| sixteen.map(|octets| std::net::IpAddr::from(octets).to_string())).ok()
}

/// A CA of `cert init-ca`.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    ends_at_s: u64,
}

impl Ca {
    fn read(folder: &Path) -> Result<Self, Failure> {
        let (chain, key_file) = ca_files(folder);
        let none = |failure: Failure| failure.hint("raftctl cert init-ca FOLDER makes a CA");
        let (pem, key) = (read(&chain).map_err(none)?, read(&key_file).map_err(none)?);
        let text = |bytes: Vec<u8>, file: &Path| String::from_utf8(bytes).map_err(|error| unusable(file, &error));
        let (pem, key) = (text(pem, &chain)?, text(key, &key_file)?);
        let key = KeyPair::from_pem(&key).map_err(|error| unusable(&key_file, &error))?;
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| unusable(&chain, &error))?;
        let (_, certificate) = X509Certificate::from_der(&parsed.contents).map_err(|error| unusable(&chain, &error))?;
        if !certificate.is_ca() {
            return Err(unusable(&chain, &"it is no CA's certificate"));
        }
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(unusable(&key_file, &format!("it is not the key of {}", chain.display())));
        }
        let ends_at_s = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        if now()?.as_secs() >= ends_at_s {
            return Err(Failure::precondition(format!("the CA {} has ended", chain.display()))
                .hint("raftctl cert init-ca with another folder"));
        }
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|error| unusable(&chain, &error))?;
        Ok(Self { issuer, ends_at_s })
    }
}

fn ca_files(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("ca.pem"), folder.join("ca-key.pem"))
}

fn make_key() -> Result<KeyPair, Failure> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| failed("make a key", &error))
}

/// The key first: a certificate that is there has its key. Nothing is left of a pair that cannot be whole.
fn write_pair(chain: (&Path, &str), key: (&Path, &str)) -> Result<(), Failure> {
    if chain.0.exists() {
        return Err(taken(chain.0));
    }
    write_new(key.0, key.1, PRIVATE)?;
    write_new(chain.0, chain.1, PUBLIC).inspect_err(|_| {
        // It was made just now, and is of no use.
        let _ = fs::remove_file(key.0);
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let mut file = match fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(taken(path)),
        Err(error) => return Err(failed(&format!("make {}", path.display()), &error)),
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
    written.map_err(|error| {
        // Half a key is worse than none.
        let _ = fs::remove_file(path);
        failed(&format!("write {}", path.display()), &error)
    })
}

/// The new name is durable with its folder.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}

fn made(target: &Target, chain: &Path, key: &Path) -> Result<Exit, Failure> {
    let bytes = read(chain)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|error| unusable(chain, &error))?;
    let certificate = pem.parse_x509().map_err(|error| unusable(chain, &error))?;
    let mut list = list();
    push(&mut list, &chain.display().to_string(), &certificate, &[("key", json!(key.display().to_string()))])?;
    list.print(target.output)?;
    Ok(Exit::Ok)
}

pub(super) fn now() -> Result<Duration, Failure> {
    SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| Failure::internal("the clock is before 1970"))
}

/// As X.509 can say it.
fn end(life: Duration) -> Result<Duration, Failure> {
    let end = now()?.saturating_add(life);
    let last = Duration::from_secs(253_402_300_799); // 9999-12-31
    if life.is_zero() || end > last {
        return Err(Failure::usage("--for: longer than nothing, and not beyond the year 9999"));
    }
    Ok(end)
}

/// From a little before now on. X.509 knows no parts of a second.
fn set_times(params: &mut CertificateParams, end: Duration) -> Result<(), Failure> {
    let at = |since_1970: Duration| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_1970.as_secs());
    params.not_before = at(now()?.saturating_sub(SKEW));
    params.not_after = at(end);
    Ok(())
}

/// RFC 3339, in UTC.
pub(super) fn date(unix_s: i64) -> String {
    let (days, second) = (unix_s.div_euclid(86_400), unix_s.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years (Howard Hinnant's civil_from_days).
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::usage(format!("failed to read {}: {error}", path.display())))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("failed to use {}: {error}", path.display()))
}

fn failed(act: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::internal(format!("failed to {act}: {error}"))
}

fn taken(path: &Path) -> Failure {
    Failure::precondition(format!("{} is there already, and is not written over", path.display()))
        .hint("another place, or move it away")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (second, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(date(second), text);
        }
    }
}
