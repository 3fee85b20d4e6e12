//! What to say of the number of managers.

/// The warning for an even number of managers, which survives no more losses than one manager less.
pub fn even_managers(managers: usize) -> Option<String> {
    match managers {
        2 => Some(
            "WARNING: Running Swarm in a two-manager configuration. This configuration provides no fault tolerance, and poses \
             a high risk to lose control over the cluster: add a third manager, or demote one of them."
                .to_owned(),
        ),
        even if even > 0 && even % 2 == 0 => Some(format!(
            "WARNING: Running Swarm with an even number of managers ({even}) survives no more losses than {}: add one, or \
             demote one of them.",
            even - 1
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_numbers_are_as_they_should_be() {
        for managers in [0, 1, 3, 5, 7] {
            assert_eq!(even_managers(managers), None);
        }
        assert!(even_managers(2).is_some_and(|said| said.contains("two-manager")));
        assert!(even_managers(4).is_some_and(|said| said.contains("(4)")));
    }
}
