//! Seeds pass, a seed is the same run each time, and what is planted is found.

use std::process::{Command, Output};

/// Seeds that every run of the tests tries.
const SEEDS: &str = "80";
/// Seeds of which one has to find what is planted.
const PLANTED: &str = "40";

fn simulate(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-sim"));
    command.args(args).output().expect("the simulator starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn seeds_pass() {
    let output = simulate(&["--seeds", SEEDS]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    for seed in ["7", "8"] {
        let runs = [(); 3].map(|()| simulate(&["--seed", seed, "--verbose"]));
        for run in &runs {
            assert!(run.status.success(), "{}", said(run));
            assert_eq!(said(run), said(&runs[0]), "seed {seed}");
        }
    }
}

#[test]
fn seeds_differ() {
    assert_ne!(
        said(&simulate(&["--seed", "7"])).split_once(';'),
        said(&simulate(&["--seed", "8"])).split_once(';'),
    );
}

/// All that can be planted, as `--help` has it.
fn plants() -> Vec<String> {
    let help = said(&simulate(&["--help"]));
    let (_, from) = help.split_once("--plant").expect("it can be planted");
    let listed = from
        .lines()
        .skip_while(|line| !line.contains("Possible values"));
    let listed = listed
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("- "));
    let word = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    listed.map(word).collect()
}

#[test]
fn what_is_planted_is_found_as_what_it_is() {
    let plants = plants();
    assert!(plants.len() > 10, "{plants:?}");
    for plant in plants {
        let output = simulate(&["--seeds", PLANTED, "--plant", &plant]);
        let said = said(&output);
        assert!(output.status.success(), "{plant}: {said}");
        let replay = format!("--plant {plant} (");
        assert!(said.contains(&replay), "{plant}: {said}");
    }
}
