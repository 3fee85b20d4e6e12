//! Puts rules in force once every manager knows them, while this manager leads. So managers of several programs can be in one
//! group: all go by what the oldest of them knows, until it is upgraded, and who comes in has to know that.

use crate::{ManagerError, Operation, command::UNTOLD, core::Core};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// Pause between two looks at what the managers know.
const LOOK: Duration = Duration::from_secs(1);
/// So many looks in vain are worth a word in the log: managers that have just come to lead are not answered at once.
const PATIENCE: u32 = 10;

/// Runs until the manager stops; works only while it leads.
pub(crate) async fn run(core: Arc<Core>) {
    let work = |core: Arc<Core>| async move { raise(&core).await };
    core.while_leading(work).await;
}

async fn raise(core: &Core) {
    let mut in_vain = 0;
    loop {
        let due = || {
            let rules = core.consensus.common_rules();
            let in_force = core.store.read().rules();
            (rules > in_force).then_some(rules)
        };
        if due().is_some() {
            // Nobody comes in meanwhile who does not know them.
            let _changing = core.consensus.changing().lock().await;
            if let Some(rules) = due() {
                go_by(core, rules).await;
            }
        }
        let (in_force, known) = (core.store.read().rules(), core.store.knows());
        in_vain = if in_force < known { in_vain + 1 } else { 0 };
        if in_vain == PATIENCE {
            tracing::warn!(
                in_force,
                known,
                "what this version brings waits for a manager that is older, or is not there"
            );
        }
        sleep(LOOK).await;
    }
}

async fn go_by(core: &Core, rules: u32) {
    match core.proposer.operation(Operation::GoBy { rules }).await {
        Ok(_) => tracing::info!(rules, "every manager knows these rules: they are in force"),
        Err(error) => tracing::warn!(rules, %error, "these rules are not in force yet"),
    }
}

/// Refuses a manager that comes in and does not know the rules in force. `told` is what it says to know; zero: it does not.
pub(crate) fn check_newcomer(told: u32, in_force: u32) -> Result<(), ManagerError> {
    let told = told.max(UNTOLD);
    match told < in_force {
        true => Err(ManagerError::too_old_to_join(told, in_force)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, RULES, fixture::World};

    #[test]
    fn who_comes_in_knows_the_rules_in_force() {
        for (told, in_force, is_let_in) in [
            (0, UNTOLD, true),
            (UNTOLD, UNTOLD, true),
            (RULES, UNTOLD, true),
            (0, UNTOLD + 1, false),
            (UNTOLD, UNTOLD + 1, false),
            (RULES, RULES, true),
            (RULES, RULES + 1, false),
            (RULES + 1, RULES, true),
        ] {
            match check_newcomer(told, in_force) {
                Ok(()) => assert!(is_let_in, "{told} {in_force}"),
                Err(error) => {
                    assert!(!is_let_in, "{told} {in_force}");
                    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
                    let said = format!("knows rules up to {}", told.max(UNTOLD));
                    assert!(error.message.contains(&said), "{error}");
                }
            }
        }
    }

    #[test]
    fn rules_are_never_taken_back() {
        // A new cluster goes by all that its first manager knows.
        let mut world = World::new(&[]);
        assert_eq!(world.state.rules(), RULES);
        for (rules, in_force) in [
            (RULES + 2, RULES + 2),
            (RULES + 1, RULES + 2),
            (0, RULES + 2),
        ] {
            world.apply(Operation::GoBy { rules }).unwrap();
            assert_eq!(world.state.rules(), in_force);
        }
    }
}
