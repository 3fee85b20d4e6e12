//! Printing: a numbered heading for each step, then each command as typed and what it answered.

use anyhow::{Context, Result};
use mesh_tests::{NetNs, Node};

/// Numbers the steps.
#[derive(Default)]
pub(crate) struct Show {
    steps: usize,
}

impl Show {
    /// Opens the next step.
    pub(crate) fn step(&mut self, what: &str) {
        self.steps += 1;
        println!("\n== {}. {what}", self.steps);
    }

    /// `mesh-ctl` on a node, shown with its answer.
    pub(crate) fn ctl(&self, node: &Node, args: &[&str]) -> Result<String> {
        println!("{}# mesh-ctl {}", node.name, words(args));
        let answer = node.ctl(args)?;
        print_block(&answer.out);
        print_block(&answer.err);
        answer.ok().with_context(|| format!("on {}", node.name))
    }

    /// A program inside a namespace, shown with its answer under the given prompt.
    pub(crate) fn inside(&self, prompt: &str, ns: &NetNs, argv: &[&str]) -> Result<String> {
        println!("{prompt}# {}", words(argv));
        let text = ns.sh(argv)?;
        print_block(&text);
        Ok(text)
    }
}

/// Prints text so that the next line starts at the left.
fn print_block(text: &str) {
    if !text.trim().is_empty() {
        println!("{}", text.trim_end());
    }
}

/// The words as a shell would want them.
fn words(args: &[&str]) -> String {
    let quoted: Vec<String> = args
        .iter()
        .map(|arg| {
            if arg.is_empty() || arg.contains([' ', '{', '$', '*', '|', '&']) {
                format!("'{arg}'")
            } else {
                (*arg).to_owned()
            }
        })
        .collect();
    quoted.join(" ")
}
