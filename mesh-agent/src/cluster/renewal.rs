//! Keeps what the node proves itself with good: the certificate is renewed in time, and at once when managers have given the
//! node another role or sign by another root; and the root to trust is the one that managers name.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_manager::client;
use mesh_pki::{NodeIdentity, PkiError, Role, tls, utc};
use tokio::sync::watch;

use super::{hosting, identity::OwnIdentity};
use crate::{node::Node, session::Objection};

/// How often the certificate is looked at: the shortest live for an hour.
const CHECK: Duration = Duration::from_secs(60);

/// First pause after the managers did not renew it; it doubles with every failure.
const RETRY: Duration = Duration::from_secs(1);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The same where the certificate has expired, or is about to.
const URGENT_PAUSE: Duration = Duration::from_secs(5);
/// Rest of its life in which a certificate is about to expire: a manager that has prolonged its own has no more.
const URGENT: Duration = Duration::from_secs(3600);

/// Part of its life after which a certificate is renewed.
const FRACTION: f64 = 0.6;

/// What is to be done about an identity.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Rest,
    /// Trust another root.
    Trust(Box<NodeIdentity>),
    /// Have the certificate renewed at any moment within this time.
    Renew(Duration),
}

/// Runs for as long as the node is a member.
pub(super) async fn run(
    node: Node,
    identity: Arc<OwnIdentity>,
    managers: watch::Receiver<Vec<String>>,
    mut role: watch::Receiver<Option<Role>>,
    mut objection: watch::Receiver<Option<Objection>>,
) {
    let mut check = tokio::time::interval(CHECK);
    let mut unlocked = identity.subscribe();
    loop {
        tokio::select! {
            _ = check.tick() => {}
            changed = unlocked.changed() => if changed.is_err() { return },
            changed = role.changed() => if changed.is_err() { return },
            changed = objection.changed() => if changed.is_err() { return },
        }
        let mut pause = RETRY;
        let mut is_first = true;
        let mut told = Vec::new();
        loop {
            let now = identity.get();
            let wanted = *role.borrow();
            let said = objection.borrow().clone();
            let is_done = match step(&now, wanted, said.as_ref(), SystemTime::now()) {
                Step::Rest => {
                    node.note(|trouble| trouble.certificate = None);
                    break;
                }
                Step::Trust(trusting) => match identity.renew(*trusting, || hosting::show(&node)) {
                    Ok(()) => {
                        tracing::info!("this node trusts the new root CA from now on");
                        true
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the new root CA to trust is not saved");
                        false
                    }
                },
                Step::Renew(within) => {
                    if is_first {
                        tell_if_expired(&now);
                        tokio::time::sleep(within.mul_f64(rand::random_range(0.0..1.0))).await;
                    }
                    let known = managers.borrow().clone();
                    ask(&node, &identity, &known, &now, &mut told).await
                }
            };
            is_first = false;
            // To a clock that is far ahead, one that does not live long is old as soon as it is made.
            let (now, time) = (identity.get(), SystemTime::now());
            if !is_done || is_old(&now, time) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest_pause(&now, time));
            }
        }
    }
}

/// What is to be done about an identity that is to have this role, with what a manager has said against one.
fn step(
    now: &Arc<NodeIdentity>,
    role: Option<Role>,
    said: Option<&Objection>,
    time: SystemTime,
) -> Step {
    if !now.has_key() {
        return Step::Rest;
    }
    let root = said
        .filter(|said| said.against.root_pem == now.root_pem)
        .and_then(|said| said.root_pem.as_ref())
        .filter(|root| **root != now.root_pem);
    // Where those that trust the new root would not take this node's certificate, it comes with another one.
    let is_left_behind = match root.map(|root| now.trusting(root)) {
        Some(Ok(trusting)) => return Step::Trust(Box::new(trusting)),
        Some(Err(_)) => said.is_some_and(|said| is_about(said, now)),
        None => false,
    };
    if is_left_behind || is_old(now, time) || role.is_some_and(|role| role != now.role) {
        return Step::Renew(Duration::ZERO);
    }
    said.filter(|said| is_about(said, now))
        .and_then(|said| said.renew_within)
        .map_or(Step::Rest, Step::Renew)
}

/// Whether its certificate is to be renewed for its age.
fn is_old(identity: &NodeIdentity, time: SystemTime) -> bool {
    identity.is_due_for_renewal(time, FRACTION).unwrap_or(false)
}

/// Longest pause between two tries to have it renewed.
fn longest_pause(identity: &NodeIdentity, time: SystemTime) -> Duration {
    match identity.has_expired(time + URGENT) {
        Ok(false) => LONGEST_PAUSE,
        _ => URGENT_PAUSE,
    }
}

/// Says so in the log if its certificate has expired.
fn tell_if_expired(identity: &NodeIdentity) {
    if let Ok(true) = identity.has_expired(SystemTime::now())
        && let Ok((_, end)) = identity.validity()
    {
        tracing::warn!(
            expired = utc(end),
            "this node's certificate has expired; managers are asked to renew it, who know its key"
        );
    }
}

/// What is told of a certificate that has expired and was not renewed.
fn expired(identity: &NodeIdentity, time: SystemTime, failures: &[String]) -> Option<String> {
    let (_, end) = identity.validity().ok()?;
    let why = match failures {
        [] => "no manager is known".to_owned(),
        failures => failures.join("; "),
    };
    (end < time).then(|| {
        let end = utc(end);
        format!("the certificate of this node expired on {end}, and is not renewed yet: {why}")
    })
}

/// Whether it is about the certificate that the node has now.
fn is_about(said: &Objection, now: &NodeIdentity) -> bool {
    said.against.certificate_pem == now.certificate_pem
}

/// Whether a renewed one takes the place of the `former`: one that others would not take now does not, unless they would not
/// take the former one either. The clock of who signed it may be ahead, or this node's behind.
///
/// # Errors
/// What they would have against it.
fn check(renewed: &NodeIdentity, former: &NodeIdentity, time: SystemTime) -> Result<(), PkiError> {
    let judge = |one: &NodeIdentity| tls::check_chain(&one.root_pem, &one.certificate_pem, time);
    judge(renewed).or_else(|refused| match judge(former) {
        Ok(()) => Err(refused),
        Err(_) => Ok(()),
    })
}

/// Asks the managers in turn for a new certificate, and takes it up. What keeps it from doing so is logged unless it was `told`
/// already.
async fn ask(
    node: &Node,
    own: &OwnIdentity,
    managers: &[String],
    now: &NodeIdentity,
    told: &mut Vec<String>,
) -> bool {
    let mut failures = Vec::new();
    for manager in managers {
        let renewed = match client::renew(manager, now).await {
            Ok(renewed) => renewed,
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
        if let Err(error) = check(&renewed, now, SystemTime::now()) {
            failures.push(format!(
                "what {manager} signed is not good by this node's clock: {error}"
            ));
            continue;
        }
        match own.renew(renewed, || hosting::show(node)) {
            Ok(()) => {
                tracing::info!("the node's certificate is renewed");
                node.note(|trouble| trouble.certificate = None);
                return true;
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    node.note(|trouble| trouble.certificate = expired(now, SystemTime::now(), &failures));
    if failures != *told {
        let failures = failures.join("; ");
        tracing::warn!(failures, "certificate not renewed");
    }
    *told = failures;
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_pki::{DEFAULT_CERTIFICATE_VALIDITY, RootCa, new_key_and_request};

    fn identity(signer: &RootCa, trusted: &RootCa) -> Arc<NodeIdentity> {
        let pair = new_key_and_request().expect("a key");
        let life = DEFAULT_CERTIFICATE_VALIDITY;
        let certificate = signer.sign(&pair.request_pem, "n", Role::Worker, "c", life);
        let root = trusted.certificate_pem().to_owned();
        let made = NodeIdentity::new(certificate.expect("a certificate"), pair.key_pem, root);
        Arc::new(made.expect("an identity"))
    }

    #[test]
    fn a_renewed_certificate_that_is_not_good_takes_no_good_ones_place() {
        let root = RootCa::create().expect("a root");
        let good = identity(&root, &root);
        let now = SystemTime::now();
        let dated = |life| {
            let request = good.request().expect("a request");
            let certificate =
                root.sign_during(&request, &good.node_id, good.role, &good.cluster_id, life);
            NodeIdentity {
                certificate_pem: certificate.expect("a certificate"),
                ..good.as_ref().clone()
            }
        };
        let hour = Duration::from_secs(3600);
        let early = dated(now + hour..now + 9 * hour);
        let late = dated(now - 9 * hour..now - hour);
        check(&identity(&root, &root), &good, now).expect("it is as good");
        for bad in [&early, &late] {
            check(bad, &good, now).expect_err("the former one is better");
            check(&good, bad, now).expect("it is better");
            check(&early, bad, now).expect("the former one is not better");
        }
        check(&early, &good, now + 2 * hour).expect("it is good then");
    }

    #[test]
    fn an_expired_certificate_is_told_with_the_reason() {
        let root = RootCa::create().expect("a root");
        let good = identity(&root, &root);
        let (_, end) = good.validity().expect("a certificate");
        let second = Duration::from_secs(1);
        let why = ["a: closed".to_owned(), "b: late".to_owned()];
        assert_eq!(expired(&good, end - second, &why), None);
        let told = expired(&good, end + second, &why).expect("it has expired");
        let date = utc(end);
        assert_eq!(
            told,
            format!(
                "the certificate of this node expired on {date}, and is not renewed yet: a: closed; b: late"
            )
        );
    }

    #[test]
    fn what_managers_say_is_followed_once() {
        let [old, new] = [(); 2].map(|()| RootCa::create().expect("a root"));
        let new = new
            .clone()
            .with_chain(old.vouch_for(&new).expect("a voucher"));
        let (first, renewed) = (identity(&old, &old), identity(&new, &old));
        let done = renewed.trusting(new.certificate_pem()).expect("taken");
        let done = Arc::new(done);
        let against = |of: &Arc<NodeIdentity>, root: Option<&RootCa>, within| {
            Some(Objection {
                against: of.clone(),
                root_pem: root.map(|root| root.certificate_pem().to_owned()),
                renew_within: within,
            })
        };
        let soon = Duration::from_millis(9);
        let now = SystemTime::now();
        let next = |of: &Arc<NodeIdentity>, said: Option<Objection>| {
            step(of, Some(Role::Worker), said.as_ref(), now)
        };
        assert_eq!(next(&first, None), Step::Rest);
        assert_eq!(next(&first, against(&first, None, None)), Step::Rest);
        let begun = || against(&first, None, Some(soon));
        assert_eq!(next(&first, begun()), Step::Renew(soon));
        assert_eq!(next(&renewed, begun()), Step::Rest, "it was the former one");
        let ended = || against(&renewed, Some(&new), None);
        assert_eq!(
            next(&renewed, ended()),
            Step::Trust(Box::new(done.as_ref().clone()))
        );
        assert_eq!(next(&done, ended()), Step::Rest, "it is done");
        let missed = against(&first, Some(&new), Some(soon));
        assert_eq!(next(&first, missed), Step::Renew(Duration::ZERO));
        let nonsense = Some(Objection {
            root_pem: Some("?".to_owned()),
            ..begun().expect("one")
        });
        assert_eq!(next(&first, nonsense.clone()), Step::Renew(Duration::ZERO));
        assert_eq!(next(&renewed, nonsense), Step::Rest, "once");

        let promoted = step(&first, Some(Role::Manager), None, now);
        assert_eq!(promoted, Step::Renew(Duration::ZERO));
        let later = now + DEFAULT_CERTIFICATE_VALIDITY.mul_f64(0.7);
        let old = step(&first, None, None, later);
        assert_eq!(old, Step::Renew(Duration::ZERO));
        assert_eq!(longest_pause(&first, later), LONGEST_PAUSE);
        let end = now + DEFAULT_CERTIFICATE_VALIDITY;
        for late in [end - URGENT / 2, end + URGENT] {
            assert_eq!(longest_pause(&first, late), URGENT_PAUSE);
        }
        let locked = Arc::new(first.as_ref().clone().without_key());
        assert_eq!(next(&locked, begun()), Step::Rest);
    }
}
