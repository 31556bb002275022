//! Client certificates: which are taken, which are refused and why, and that a certificate alone proves nothing.
#![cfg(feature = "certificate")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, SigningKey,
};
use seriatim_proto::certificate::{CertificateError, ClientCa, NameProblem, Roots};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::TenantId;
use seriatim_proto::limits;
use seriatim_proto::logic::{CertificateProof, Scopes};

/// Whoever signs certificates.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

struct Device {
    chain: Vec<Bytes>,
    key: KeyPair,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

impl Ca {
    fn new(name: &str) -> Self {
        let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
        let own = params.self_signed(&key).unwrap();
        Self { pem: own.pem(), params, key }
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
        let own = params.signed_by(&key, &self.issuer()).unwrap();
        Self { pem: own.pem(), params, key }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    fn issue(&self, params: &CertificateParams) -> Device {
        let key = KeyPair::generate().unwrap();
        let own = params.signed_by(&key, &self.issuer()).unwrap();
        Device { chain: vec![Bytes::copy_from_slice(own.der())], key }
    }

    fn trusted(&self) -> ClientCa {
        ClientCa::new(Roots::from_pem(self.pem.as_bytes()).unwrap())
    }
}

/// What a client signs in a handshake whose hash is this one.
fn signed(hash: &[u8]) -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, client CertificateVerify\0", hash].concat()
}

const ECDSA_P256: u16 = 0x0403;

impl Device {
    fn proof(&self) -> CertificateProof {
        self.proof_of(&signed(&[7; 32]))
    }

    fn proof_of(&self, signed: &[u8]) -> CertificateProof {
        CertificateProof {
            chain: self.chain.clone(),
            signed: Bytes::copy_from_slice(signed),
            scheme: ECDSA_P256,
            signature: self.key.sign(signed).unwrap().into(),
        }
    }
}

#[test]
fn a_certificate_names_its_user_its_scopes_and_its_end() {
    let ca = Ca::new("ours");
    let mut params = params(&["spiffe://elsewhere/x", "seriatim://7/alice?scopes=device,sequence"]);
    params.not_after = rcgen::date_time_ymd(2094, 1, 2);
    let verified = ca.trusted().check(&ca.issue(&params).proof()).unwrap();
    assert_eq!((verified.tenant, verified.user.as_str()), (TenantId(7), "alice"));
    assert_eq!(verified.scopes, Scopes { device: true, sequence: true });
    assert_eq!(verified.expires_at_s, 3_913_228_800, "2094-01-02");
}

#[test]
fn an_issuer_between_is_shown_and_may_end_first() {
    let (ca, other) = (Ca::new("ours"), Ca::new("another"));
    let mut between = Ca::new("between");
    between.params.not_after = rcgen::date_time_ymd(2094, 1, 2);
    let own = between.params.signed_by(&between.key, &ca.issuer()).unwrap();
    let mut device = between.issue(&params(&["seriatim://7/alice"]));
    assert_eq!(ca.trusted().check(&device.proof()), Err(CertificateError::Issuer), "without it");
    device.chain.push(Bytes::copy_from_slice(own.der()));
    assert_eq!(ca.trusted().check(&device.proof()).unwrap().expires_at_s, 3_913_228_800);
    assert_eq!(other.trusted().check(&device.proof()), Err(CertificateError::Issuer));
}

#[test]
fn a_certificate_alone_proves_nothing() {
    let ca = Ca::new("ours");
    let device = ca.issue(&params(&["seriatim://7/alice"]));
    let mallory = ca.issue(&params(&["seriatim://7/mallory"]));
    let trusted = ca.trusted();
    assert!(trusted.check(&device.proof()).is_ok());
    assert!(trusted.check(&device.proof_of(&signed(&[7; 48]))).is_ok(), "SHA-384");
    let stolen = CertificateProof { chain: device.chain.clone(), ..mallory.proof() };
    let server = [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat();
    let short = CertificateProof { signature: device.proof().signature.slice(1..), ..device.proof() };
    let changed = CertificateProof { signed: signed(&[8; 32]).into(), ..device.proof() };
    let none = CertificateProof { signature: Bytes::new(), ..device.proof() };
    for (what, proof) in [
        ("another's signature", stolen),
        ("no signature", none),
        ("a part of a signature", short),
        ("a signature of something else", changed),
        ("what a server signs", device.proof_of(&server)),
        ("what a client of another protocol signs", device.proof_of(b"please sign this")),
        ("a hash that is none", device.proof_of(&signed(&[7; 31]))),
        ("no hash", device.proof_of(&signed(&[]))),
        ("another scheme", CertificateProof { scheme: 0x0807, ..device.proof() }),
        ("an old scheme", CertificateProof { scheme: 0x0203, ..device.proof() }),
    ] {
        assert_eq!(trusted.check(&proof), Err(CertificateError::Possession), "{what}");
    }
}

#[test]
fn a_bad_certificate_is_refused_with_its_reason() {
    let ca = Ca::new("ours");
    let trusted = ca.trusted();
    let alice = ["seriatim://7/alice"];
    let with = |edit: &dyn Fn(&mut CertificateParams)| {
        let mut params = params(&alice);
        edit(&mut params);
        ca.issue(&params)
    };
    let ended = with(&|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    let early = with(&|params| params.not_before = rcgen::date_time_ymd(2094, 1, 1));
    let of_server = with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let of_ca = with(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let same_name = Ca::new("ours").issue(&params(&alice));
    let mut garbage = ca.issue(&params(&alice));
    garbage.chain[0] = Bytes::from_static(b"\x30\x03abc");
    let mut nothing = ca.issue(&params(&alice));
    nothing.chain.clear();
    let mut longer = ca.issue(&params(&alice));
    longer.chain.resize(limits::CERTIFICATES_MAX as usize + 1, longer.chain[0].clone());
    let mut larger = ca.issue(&params(&alice));
    larger.chain.push(Bytes::from(vec![0; limits::CERTIFICATE_BYTES_MAX as usize]));
    let name = |problem| CertificateError::Name(problem);
    for (device, error) in [
        (ended, CertificateError::Expired),
        (early, CertificateError::Early),
        (of_server, CertificateError::Purpose),
        (of_ca, CertificateError::Malformed),
        (same_name, CertificateError::Issuer),
        (garbage, CertificateError::Malformed),
        (nothing, CertificateError::Malformed),
        (longer, CertificateError::TooLong),
        (larger, CertificateError::TooLong),
        (ca.issue(&params(&[])), name(NameProblem::Missing)),
        (ca.issue(&params(&["https://seriatim/7/alice"])), name(NameProblem::Missing)),
        (ca.issue(&params(&["seriatim-node://store/a"])), name(NameProblem::Missing)),
        (ca.issue(&params(&[alice[0], "seriatim://7/bob"])), name(NameProblem::Several)),
        (ca.issue(&params(&["seriatim://alice"])), name(NameProblem::Malformed)),
    ] {
        assert_eq!(trusted.check(&device.proof()), Err(error));
        let code = Refusal::from(error).code;
        let expired = error == CertificateError::Expired;
        assert_eq!(code, if expired { ErrorCode::AuthExpired } else { ErrorCode::AuthFailed }, "{error}");
    }
}

#[test]
fn other_cas_count_at_once() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let (alice, bob) = (params(&["seriatim://7/alice"]), params(&["seriatim://7/bob"]));
    let (alice, bob) = (ours.issue(&alice).proof(), theirs.issue(&bob).proof());
    let trusted = ours.trusted();
    let clone = trusted.clone();
    assert!(clone.check(&alice).is_ok() && clone.check(&bob).is_err());
    trusted.replace(Roots::from_pem(format!("{}{}", ours.pem, theirs.pem).as_bytes()).unwrap());
    assert!(clone.check(&alice).is_ok() && clone.check(&bob).is_ok());
    trusted.replace(Roots::from_pem(theirs.pem.as_bytes()).unwrap());
    assert_eq!(clone.check(&alice), Err(CertificateError::Issuer));
    // A CA below one that is trusted may be trusted alone.
    let below = ours.below("below");
    trusted.replace(Roots::from_pem(below.pem.as_bytes()).unwrap());
    assert!(clone.check(&below.issue(&params(&["seriatim://7/alice"])).proof()).is_ok());
    assert_eq!(clone.check(&alice), Err(CertificateError::Issuer));
}

#[test]
fn nothing_of_a_proof_is_shown() {
    let ca = Ca::new("ours");
    let proof = ca.issue(&params(&["seriatim://7/alice"])).proof();
    assert_eq!(format!("{proof:?}"), "CertificateProof(1 certificates)");
}
