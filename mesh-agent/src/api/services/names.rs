//! A name for a service that was created without one, as Docker makes them up: `adjective_surname`.

use rand::seq::IndexedRandom;

const ADJECTIVES: [&str; 40] = [
    "agile", "amber", "brave", "bright", "calm", "candid", "clever", "cosmic", "daring", "eager",
    "early", "fair", "fleet", "frank", "gentle", "golden", "grand", "happy", "humble", "jolly",
    "keen", "kind", "lively", "lucid", "merry", "mild", "noble", "patient", "placid", "polite",
    "prompt", "quiet", "rapid", "serene", "silver", "steady", "sturdy", "vivid", "warm", "witty",
];

/// People to whom networks owe something.
const SURNAMES: [&str; 40] = [
    "abramson",
    "baran",
    "bell",
    "berners",
    "boggs",
    "cailliau",
    "cerf",
    "clark",
    "crocker",
    "davies",
    "deering",
    "dijkstra",
    "erlang",
    "estrin",
    "feinler",
    "floyd",
    "hamming",
    "holzmann",
    "hopper",
    "huffman",
    "jacobson",
    "kahn",
    "karn",
    "kleinrock",
    "lamarr",
    "lamport",
    "licklider",
    "liskov",
    "lovelace",
    "lynch",
    "metcalfe",
    "mockapetris",
    "nyquist",
    "perlman",
    "postel",
    "roberts",
    "shannon",
    "tomlinson",
    "turing",
    "zimmermann",
];

/// After so many names that were taken, a number is put behind.
const PLAIN: usize = 20;

/// A name that is not taken.
pub(super) fn make_up(is_taken: impl Fn(&str) -> bool) -> String {
    let mut random = rand::rng();
    (0..)
        .map(|tried| {
            let one = |words: &[&'static str]| words.choose(&mut random).copied().unwrap_or("mesh");
            let [adjective, surname] = [&ADJECTIVES[..], &SURNAMES].map(one);
            match tried < PLAIN {
                true => format!("{adjective}_{surname}"),
                false => format!("{adjective}_{surname}{tried}"),
            }
        })
        .find(|name| !is_taken(name))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_free_ones() {
        let name = make_up(|_| false);
        let (adjective, surname) = name.split_once('_').expect("two words");
        assert!(
            ADJECTIVES.contains(&adjective) && SURNAMES.contains(&surname),
            "{name}"
        );
        let numbered = make_up(|name| !name.ends_with(|c: char| c.is_ascii_digit()));
        assert!(numbered.ends_with("20"), "{numbered}");
    }
}
