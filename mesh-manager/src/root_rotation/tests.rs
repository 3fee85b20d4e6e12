//! Rotations of the root, from the command that begins one to the proposal that ends it.

use super::*;
use crate::{
    Command, ErrorKind, Outcome,
    fixture::World,
    state::{Cluster, RootRotation},
};
use mesh_api::engine::{SwarmSpec, SwarmSpecCaConfig, SwarmSpecCaConfigExternalCas};
use mesh_pki::{JoinToken, NodeIdentity, Role, RootCa, new_key_and_request};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::time::SystemTime;

/// A cluster with a root, whose nodes have certificates of it.
fn world(workers: &[&str]) -> World {
    let mut world = World::new(workers);
    let root = RootCa::create().unwrap();
    let cluster = world.state.cluster.as_mut().unwrap();
    cluster.root_certificate_pem = root.certificate_pem().to_owned();
    cluster.root_key_pem = root.key_pem().unwrap().to_owned();
    cluster.worker_token = JoinToken::generate(&root.digest()).to_string();
    cluster.manager_token = JoinToken::generate(&root.digest()).to_string();
    for id in [&["m"], workers].concat() {
        renew(&mut world, id);
    }
    world
}

fn cluster(world: &World) -> &Cluster {
    world.state.cluster().unwrap()
}

/// The node shows a certificate of what signs now.
fn renew(world: &mut World, id: &str) {
    let signer = cluster(world).signer().unwrap();
    let pair = new_key_and_request().unwrap();
    let life = mesh_pki::DEFAULT_CERTIFICATE_VALIDITY;
    let certificate = signer.sign(&pair.request_pem, id, Role::Worker, "c", life);
    let certificate = CertificateDer::from_pem_slice(certificate.unwrap().as_bytes()).unwrap();
    let mut description = world.state.node(id).unwrap().description.clone();
    description.issuer = cluster(world).issuer_of(&certificate);
    assert_eq!(description.issuer, cluster(world).signer_digest());
    let node_id = id.to_owned();
    let up = Operation::NodeUp {
        node_id,
        description,
    };
    world.apply(up).unwrap();
}

fn spec(force_rotate: Option<u64>, given: Option<&RootCa>) -> SwarmSpec {
    SwarmSpec {
        ca_config: Some(SwarmSpecCaConfig {
            force_rotate,
            signing_ca_cert: given.map(|root| root.certificate_pem().to_owned()),
            signing_ca_key: given.and_then(|root| root.key_pem().map(str::to_owned)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// As the API does it.
fn update(world: &mut World, mut spec: SwarmSpec) -> Outcome {
    let version = cluster(world).meta.version;
    let root = RootChange::of(cluster(world), &mut spec, SystemTime::now())?;
    world.call(Command::UpdateSwarm {
        version,
        spec,
        rotate_worker_token: false,
        rotate_manager_token: false,
        rotate_unlock_key: false,
        unlock_key: None,
        root: root.map(Box::new),
    })
}

fn rotation(world: &World) -> Option<RootRotation> {
    cluster(world).root_rotation.clone()
}

/// What the leader does when it looks.
fn end(world: &mut World) -> bool {
    let due = due(&world.state);
    let is_due = due.is_some();
    if let Some(operation) = due {
        world.apply(operation).unwrap();
    }
    is_due
}

#[test]
fn it_ends_once_every_node_has_another_certificate() {
    let mut world = world(&["n1", "n2"]);
    let before = cluster(&world).clone();
    assert!(!end(&mut world), "nothing has begun");
    update(&mut world, spec(Some(1), None)).unwrap();
    let begun = rotation(&world).unwrap();
    let shown = cluster(&world).to_engine();
    assert_eq!(shown.root_rotation_in_progress, Some(true));
    let info = shown.tls_info.unwrap();
    assert_eq!(info.trust_root.as_ref(), Some(&before.root_certificate_pem));
    let old_key = before.to_engine().tls_info.unwrap().cert_issuer_public_key;
    assert!(info.cert_issuer_public_key.is_some() && info.cert_issuer_public_key != old_key);
    assert_eq!(cluster(&world).worker_token, before.worker_token);
    assert!(!end(&mut world));
    for id in ["m", "n1"] {
        renew(&mut world, id);
        assert!(!end(&mut world), "{id}");
    }
    world.node_down("n1");
    let early = Operation::EndRootRotation {
        digest: begun.digest.clone(),
    };
    world.apply(early).unwrap();
    assert!(rotation(&world).is_some(), "proposed too early");
    renew(&mut world, "n2");
    assert!(end(&mut world));

    let after = cluster(&world).clone();
    assert!(after.root_rotation.is_none());
    assert_eq!(after.root_certificate_pem, begun.certificate_pem);
    assert_eq!(after.root_key_pem.as_bytes(), begun.key_pem.reveal());
    assert_eq!(after.root_voucher_pem, Some(begun.voucher_pem));
    let secret = |token: &str| token.parse::<JoinToken>().unwrap().secret;
    for (old, new) in [
        (&before.worker_token, &after.worker_token),
        (&before.manager_token, &after.manager_token),
    ] {
        assert_eq!(new.parse::<JoinToken>().unwrap().digest, begun.digest);
        assert_ne!(secret(old), secret(new));
    }
    assert_eq!(after.to_engine().root_rotation_in_progress, Some(false));
    assert!(!end(&mut world), "it is over");
    // The old root's nodes go on taking what the new one signs.
    let manager = NodeIdentity::manager(
        &after.signer().unwrap(),
        &begun.certificate_pem,
        "c",
        mesh_pki::DEFAULT_CERTIFICATE_VALIDITY,
    );
    assert!(
        manager
            .unwrap()
            .trusting(&before.root_certificate_pem)
            .is_ok()
    );
}

#[test]
fn a_node_that_is_removed_is_not_waited_for_and_one_that_comes_is() {
    let mut world = world(&["n1", "n2"]);
    update(&mut world, spec(Some(1), None)).unwrap();
    for id in ["m", "n1"] {
        renew(&mut world, id);
    }
    let id = "n2".to_owned();
    world.call(Command::RemoveNode { id, force: true }).unwrap();
    let new = crate::AddNode {
        id: "n3".to_owned(),
        role: Role::Worker,
        availability: engine::NodeSpecAvailabilityEnum::ACTIVE,
        hostname: String::new(),
        manager_addr: None,
        data_path_address: String::new(),
        key: String::new(),
    };
    world.apply(Operation::AddNode(new)).unwrap();
    assert!(!end(&mut world));
    renew(&mut world, "n3");
    assert!(end(&mut world));
}

#[test]
fn another_rotation_takes_the_place_of_one_that_goes_on() {
    let mut world = world(&["n1"]);
    let root = RootCa::create().unwrap();
    update(&mut world, spec(Some(1), None)).unwrap();
    let first = rotation(&world).unwrap();
    renew(&mut world, "n1");
    update(&mut world, spec(Some(1), None)).unwrap();
    assert_eq!(
        rotation(&world),
        Some(first.clone()),
        "the number is the same"
    );
    update(&mut world, SwarmSpec::default()).unwrap();
    assert_eq!(rotation(&world), Some(first.clone()), "no number");

    update(&mut world, spec(Some(1), Some(&root))).unwrap();
    let second = rotation(&world).unwrap();
    assert_eq!(second.digest, root.digest());
    let ca = cluster(&world).spec.ca_config.clone().unwrap();
    assert_eq!((ca.signing_ca_cert, ca.signing_ca_key), (None, None));
    let text = format!("{:?}", cluster(&world));
    let secret = root.key_pem().unwrap().lines().nth(1).unwrap();
    assert!(!text.contains(secret));
    renew(&mut world, "m");
    assert!(!end(&mut world), "n1 has one of the first");
    update(&mut world, spec(None, Some(&root))).unwrap();
    assert_eq!(rotation(&world), Some(second), "the same root");

    // The old root given again: it stays.
    let old = cluster(&world).root().unwrap();
    update(&mut world, spec(Some(2), Some(&old))).unwrap();
    assert_eq!(rotation(&world), None);
    assert_eq!(cluster(&world).root_digest(), old.digest());
    update(&mut world, spec(None, Some(&old))).unwrap();
    assert_eq!(rotation(&world), None);
    update(&mut world, spec(Some(2), None)).unwrap();
    assert_eq!(rotation(&world), None, "that was said already");
}

#[test]
fn what_cannot_be_the_root_changes_nothing() {
    let mut world = world(&[]);
    let old = cluster(&world).root().unwrap();
    let [root, other] = [(); 2].map(|()| RootCa::create().unwrap());
    let with = |change: fn(&mut SwarmSpecCaConfig)| {
        let mut spec = spec(Some(1), Some(&root));
        change(spec.ca_config.as_mut().unwrap());
        spec
    };
    let mut mixed = spec(None, Some(&root));
    let other_key = other.key_pem().unwrap().to_owned();
    mixed.ca_config.as_mut().unwrap().signing_ca_key = Some(other_key);
    let table = [
        ("certificate key mismatch", mixed),
        (
            "the signing CA cert must also be provided",
            with(|ca| ca.signing_ca_cert = None),
        ),
        (
            "needs its key",
            with(|ca| ca.signing_ca_key = Some(String::new())),
        ),
        (
            "not a valid certificate",
            with(|ca| ca.signing_ca_cert = Some("?".to_owned())),
        ),
        (
            "external CAs are not supported",
            with(|ca| ca.external_cas = Some(vec![SwarmSpecCaConfigExternalCas::default()])),
        ),
    ];
    let before = serde_json::to_value(cluster(&world)).unwrap();
    for (expected, spec) in table {
        let refused = update(&mut world, spec).unwrap_err();
        assert!(refused.message.contains(expected), "{refused}");
        assert_ne!(refused.kind, ErrorKind::Unknown);
        assert_eq!(serde_json::to_value(cluster(&world)).unwrap(), before);
    }
    let same_key = RootRotation::new(&old, &old).unwrap_err();
    assert!(same_key.to_string().contains("identical key"), "{same_key}");
}

#[test]
fn states_and_logs_of_before_are_read() {
    let mut world = world(&["n1"]);
    let before = serde_json::to_value(&world.state).unwrap();
    for field in ["root_rotation", "root_voucher_pem"] {
        assert!(before["cluster"].get(field).is_none(), "{field}");
    }
    // An update as the version before wrote it: the number was kept, and began nothing.
    let version = cluster(&world).meta.version;
    let command: Command = serde_json::from_value(serde_json::json!({"UpdateSwarm": {
        "version": version,
        "spec": {"CAConfig": {"ForceRotate": 5}},
        "rotate_worker_token": false,
        "rotate_manager_token": false,
    }}))
    .unwrap();
    world.apply_by(3, Operation::Command(command)).unwrap();
    let number = |world: &World| cluster(world).spec.ca_config.as_ref().unwrap().force_rotate;
    assert_eq!((number(&world), rotation(&world)), (Some(5), None));
    update(&mut world, spec(Some(5), None)).unwrap();
    assert_eq!(rotation(&world), None);
    update(&mut world, SwarmSpec::default()).unwrap();
    assert_eq!(number(&world), Some(5), "kept where it is not said");

    update(&mut world, spec(Some(6), None)).unwrap();
    let text = serde_json::to_string(&world.state).unwrap();
    let read: State = serde_json::from_str(&text).unwrap();
    assert_eq!(read.cluster().unwrap().root_rotation, rotation(&world));
}
