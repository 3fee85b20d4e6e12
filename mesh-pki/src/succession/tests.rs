//! Who takes whose certificate while one root follows on another, by handshakes in memory; and what is no root.

use super::*;
use crate::{new_id, tls::tests::handshake};
use rcgen::{
    GeneralSubtree, NameConstraints, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
};
use time::OffsetDateTime;

const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// A certificate's holder that trusts `trusted`.
fn node(signer: &RootCa, trusted: &RootCa, role: Role) -> NodeIdentity {
    let pair = new_key_and_request().unwrap();
    let life = DEFAULT_CERTIFICATE_VALIDITY;
    let certificate = signer.sign(&pair.request_pem, &new_id(), role, "c", life);
    let root = trusted.certificate_pem().to_owned();
    NodeIdentity::new(certificate.unwrap(), pair.key_pem, root).unwrap()
}

async fn take_one_another(manager: &NodeIdentity, node: &NodeIdentity) -> bool {
    let server = tls::server_config(manager).unwrap();
    let shown = handshake(server, tls::client_config(node).unwrap()).await;
    shown.is_ok_and(|shown| shown)
}

/// The first root, the second, and the third; each next one with those that vouch for it.
fn succession() -> [RootCa; 3] {
    let [a, b, c] = [(); 3].map(|()| RootCa::create().unwrap());
    let b_by_a = a.vouch_for(&b).unwrap();
    let c_by_b = b.vouch_for(&c).unwrap();
    let c = c.with_chain(c_by_b + &b_by_a);
    [a, b.with_chain(b_by_a), c]
}

#[tokio::test]
async fn all_take_one_another_in_every_order_that_occurs() {
    let [a, b, c] = succession();
    let other = RootCa::create().unwrap();
    // What signed the certificate, and the root that is trusted.
    let before = (&a, &a);
    let renewed = (&b, &a);
    let done = (&b, &b);
    let missed_the_end = (&b, &a);
    let renewed_again = (&c, &b);
    let done_again = (&c, &c);
    let foreign = (&other, &other);
    let table = [
        ("nothing has begun", before, before, true),
        ("one is renewed", before, renewed, true),
        ("both are", renewed, renewed, true),
        ("one knows that it is over", renewed, done, true),
        ("both do", done, done, true),
        ("one was removed before", before, done, false),
        ("a second rotation", done, renewed_again, true),
        (
            "one was away when the first one ended",
            missed_the_end,
            renewed_again,
            true,
        ),
        ("the second is over", renewed_again, done_again, true),
        (
            "one was removed in the first",
            missed_the_end,
            done_again,
            false,
        ),
        ("one is of another swarm", renewed, foreign, false),
        ("one is of another swarm after it", done, foreign, false),
    ];
    for (what, one, other, expected) in table {
        for (manager, worker) in [(one, other), (other, one)] {
            let manager = node(manager.0, manager.1, Role::Manager);
            for role in [Role::Worker, Role::Manager] {
                let worker = node(worker.0, worker.1, role);
                let taken = take_one_another(&manager, &worker).await;
                assert_eq!(taken, expected, "{what} ({role})");
            }
        }
    }
}

/// Some of a rotation is given up for another one, or for the root of before.
#[tokio::test]
async fn what_a_rotation_that_was_replaced_has_signed_is_good_while_the_old_root_is() {
    let [a, b, c] = [(); 3].map(|()| RootCa::create().unwrap());
    let by_a = |next: &RootCa| next.clone().with_chain(a.vouch_for(next).unwrap());
    let (b, c) = (by_a(&b), by_a(&c));
    for one in [&a, &b, &c] {
        for other in [&a, &b, &c] {
            let manager = node(one, &a, Role::Manager);
            assert!(take_one_another(&manager, &node(other, &a, Role::Worker)).await);
        }
        let manager = node(&c, &c, Role::Manager);
        let taken = take_one_another(&manager, &node(one, &a, Role::Worker)).await;
        assert_eq!(taken, one.is_same(&c));
    }
}

#[tokio::test]
async fn a_token_pins_the_root_that_is_trusted() {
    let [a, b, _] = succession();
    let joins = async |manager: &NodeIdentity, root: &RootCa| {
        let server = tls::server_config(manager).unwrap();
        let client = tls::pinned_client_config(&root.digest()).unwrap();
        handshake(server, client).await.is_ok()
    };
    let during = node(&b, &a, Role::Manager);
    assert!(joins(&during, &a).await && !joins(&during, &b).await);
    let after = node(&b, &b, Role::Manager);
    assert!(joins(&after, &b).await && !joins(&after, &a).await);
    assert!(!joins(&node(&b, &a, Role::Worker), &a).await, "a worker");
}

#[test]
fn a_node_trusts_another_root_once_it_is_taken_there() {
    let [a, b, c] = succession();
    let late = node(&a, &a, Role::Worker);
    assert!(late.trusting(b.certificate_pem()).is_err());
    let renewed = node(&b, &a, Role::Worker);
    let trusting = renewed.trusting(b.certificate_pem()).unwrap();
    assert_eq!(trusting.root_digest().unwrap(), b.digest());
    assert_eq!(trusting.certificate_pem, renewed.certificate_pem);
    assert!(renewed.trusting(c.certificate_pem()).is_err());
    assert!(renewed.trusting("").is_err());
}

#[test]
fn an_identity_with_a_chain_survives_its_files() {
    let [a, b, _] = succession();
    let directory = tempfile::tempdir().unwrap();
    let identity = node(&b, &a, Role::Manager);
    assert_eq!(identity.certificate_pem.matches("BEGIN CERT").count(), 2);
    let lock = crate::UnlockKey::generate();
    for lock in [None, Some(&lock)] {
        identity.save(directory.path(), lock).unwrap();
        let loaded = NodeIdentity::load(directory.path(), lock).unwrap().unwrap();
        assert!(loaded == identity);
    }
}

#[test]
fn who_has_signed_a_certificate_is_told() {
    let [a, b, c] = succession();
    let leaf = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let signed = node(&b, &a, Role::Worker);
    let signed = leaf(&signed.certificate_pem);
    let by = [&a, &b, &c].map(|root| root.has_signed(&signed));
    assert_eq!(by, [false, true, false]);
}

/// A root made elsewhere: certificate and key, PEM.
fn outside(
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let mut push = |what, text: &str| params.distinguished_name.push(what, text);
    push(DnType::OrganizationName, "Example");
    push(DnType::CommonName, "Example CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = OffsetDateTime::now_utc() + 2 * YEAR;
    change(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn roots_from_outside_are_taken() {
    let own = RootCa::create().unwrap();
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let plain: fn(&mut CertificateParams) = |_| {};
    let new: fn(&mut CertificateParams) = |p| p.not_before = OffsetDateTime::now_utc();
    let short: fn(&mut CertificateParams) =
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    for (algorithm, change) in [
        (p256, plain),
        (&PKCS_ECDSA_P384_SHA384, plain),
        (&PKCS_ED25519, plain),
        (p256, short),
        (p256, new),
    ] {
        let (certificate, key) = outside(algorithm, change);
        let noise = format!("from a file\r\n{}", certificate.replace('\n', "\r\n"));
        let root = RootCa::from_outside(&noise, &key, SystemTime::now()).unwrap();
        assert_eq!(root.certificate_pem(), certificate.replace("\r\n", "\n"));
        let voucher = own.vouch_for(&root).unwrap();
        let voucher = CertificateDer::from_pem_slice(voucher.as_bytes()).unwrap();
        let begins = parsed(&voucher).unwrap().validity().not_before;
        let made = OffsetDateTime::now_utc() - Duration::from_secs(50 * 60);
        assert!(begins.to_datetime() < made, "for clocks that are behind");
        // And a root of our own follows on it.
        root.vouch_for(&RootCa::create().unwrap()).unwrap();
    }
}

#[test]
fn what_is_no_root_is_refused() {
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let (good, key) = outside(p256, |_| {});
    let made = |change: fn(&mut CertificateParams)| outside(p256, change);
    let refusal = |(certificate, key): (String, String)| {
        let own = RootCa::create().unwrap();
        let root = RootCa::from_outside(&certificate, &key, SystemTime::now());
        let said = root.and_then(|root| own.vouch_for(&root));
        said.unwrap_err().to_string()
    };
    let (_, other_key) = made(|_| {});
    let lock = key
        .replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
        .replace("MI", "AA");
    let table = [
        ("not a valid certificate", (String::new(), key.clone())),
        (
            "not a valid certificate",
            (good[..good.len() / 2].to_owned(), key.clone()),
        ),
        (
            "multiple certificates",
            (format!("{good}{good}"), key.clone()),
        ),
        ("not a valid private key", (good.clone(), String::new())),
        ("not a valid private key", (good.clone(), good.clone())),
        ("not a valid private key", (good.clone(), lock)),
        ("certificate key mismatch", (good.clone(), other_key)),
        (
            "certificate not a CA",
            made(|p| p.is_ca = IsCa::ExplicitNoCa),
        ),
        ("certificate not a CA", made(|p| p.is_ca = IsCa::NoCa)),
        (
            "too long",
            made(|p| {
                let name = "n".repeat(MAX_LENGTH);
                p.distinguished_name.push(DnType::LocalityName, name);
            }),
        ),
        (
            "may not sign certificates",
            made(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ),
        (
            "expires too soon",
            made(|p| p.not_after = OffsetDateTime::now_utc() + YEAR / 2),
        ),
        (
            "expires too soon",
            made(|p| p.not_after = OffsetDateTime::now_utc() - YEAR),
        ),
        (
            "not valid yet",
            made(|p| p.not_before = OffsetDateTime::now_utc() + YEAR / 2),
        ),
        (
            "nodes would not take certificates of this CA",
            made(|p| {
                let only = GeneralSubtree::DnsName("example.com".to_owned());
                p.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![only],
                    excluded_subtrees: Vec::new(),
                });
            }),
        ),
    ];
    for (expected, given) in table {
        let said = refusal(given);
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(!said.contains("BEGIN"), "{said}");
    }
    let own = RootCa::create().unwrap();
    let said = own.vouch_for(&own).unwrap_err().to_string();
    assert_eq!(said, "Cannot update to a cert with an identical key");
}

/// A certificate for RSA of 1,024 bits, and one that is signed with SHA-1; made with OpenSSL.
#[test]
fn weak_roots_are_refused() {
    let (_, key) = outside(&rcgen::PKCS_ECDSA_P256_SHA256, |_| {});
    for (certificate, expected) in [
        (
            include_str!("testdata/rsa1024.crt"),
            "too weak: RSA of 1024 bits",
        ),
        (
            include_str!("testdata/sha1.crt"),
            "too weak, or not known: 1.2.840.113549.1.1.5",
        ),
    ] {
        let root = RootCa::from_outside(certificate, &key, SystemTime::now());
        let said = root.err().unwrap().to_string();
        assert!(said.contains(expected), "{said}");
    }
}

/// Keys as OpenSSL writes them by `ecparam -genkey` and `genrsa -traditional`, and roots of them.
#[test]
fn keys_of_older_forms_are_taken() {
    let own = RootCa::create().unwrap();
    let table = [
        (
            include_str!("testdata/sec1.crt"),
            include_str!("testdata/sec1.key"),
        ),
        (
            include_str!("testdata/pkcs1.crt"),
            include_str!("testdata/pkcs1.key"),
        ),
    ];
    for (certificate, key) in table {
        let root = RootCa::from_outside(certificate, key, SystemTime::now()).unwrap();
        let kept = root.key_pem().unwrap();
        assert!(kept.starts_with("-----BEGIN PRIVATE KEY-----"));
        own.vouch_for(&root).unwrap();
    }
    let [(ec, ec_key), (rsa, rsa_key)] = table;
    for (certificate, key) in [(ec, rsa_key), (rsa, ec_key)] {
        let root = RootCa::from_outside(certificate, key, SystemTime::now());
        let said = root.err().unwrap().to_string();
        assert!(said.contains("not a valid private key"), "{said}");
    }
}

#[test]
fn parts_of_a_name_that_come_twice_are_told() {
    // Of what is an organizational unit (2.5.4.11), an organization (2.5.4.10) is made: the second one.
    let (certificate, key) = outside(&rcgen::PKCS_ECDSA_P256_SHA256, |p| {
        p.distinguished_name
            .push(DnType::OrganizationalUnitName, "Second");
    });
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let mut der = der.to_vec();
    let unit = [0x55, 4, 11];
    for at in 0..der.len() - unit.len() {
        if der[at..].starts_with(&unit) {
            der[at + 2] = 10;
        }
    }
    let twice = to_pem(&der.into());
    let root = RootCa::from_outside(&twice, &key, SystemTime::now()).unwrap();
    let said = RootCa::create().unwrap().vouch_for(&root).unwrap_err();
    let said = said.to_string();
    assert!(
        said.contains("several values for one of its parts"),
        "{said}"
    );
}
