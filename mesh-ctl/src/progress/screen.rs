//! Draws the progress: in place on a terminal, a line per change elsewhere.

use std::io::IsTerminal;

use mesh_api::engine::TaskState;

use super::{Active, Bar, GOAL, Picture, place};

/// Width of a bar between its brackets, in characters.
const BAR: usize = 50;
/// Width of a state's word, so that the bars stand below one another.
const STATE: usize = 9;

/// Where the progress is drawn.
pub(super) struct Screen {
    quiet: bool,
    terminal: bool,
    /// Lines drawn so far on a terminal.
    drawn: Vec<String>,
    /// The lines of the last picture.
    picture: Vec<String>,
    verify: Option<String>,
    extra: Vec<String>,
}

impl Screen {
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: std::io::stdout().is_terminal(),
            drawn: Vec::new(),
            picture: Vec::new(),
            verify: None,
            extra: Vec::new(),
        }
    }

    /// Shows how far the service is.
    pub(super) fn show(&mut self, picture: &Picture) {
        self.show_lines(render(picture, self.terminal));
    }

    /// Whether lines are drawn in place, so that bars are of use.
    pub(super) fn is_drawn(&self) -> bool {
        self.terminal
    }

    /// Shows these lines in the place of those before.
    pub(super) fn show_lines(&mut self, lines: Vec<String>) {
        for (index, line) in lines.iter().enumerate() {
            if self.picture.get(index) != Some(line) {
                self.put(line);
            }
        }
        self.picture = lines;
        self.draw();
    }

    /// Shows how sure we are that it will stay so.
    pub(super) fn verify(&mut self, text: &str) {
        let line = format!("verify: {text}");
        if self.verify.as_ref() != Some(&line) {
            self.put(&line);
        }
        self.verify = Some(line);
        self.draw();
    }

    /// Shows that nothing will change any more.
    pub(super) fn finish(&mut self, text: &str) {
        self.put(text);
        self.verify = Some(text.to_owned());
        self.draw();
    }

    /// Shows something once.
    pub(super) fn line(&mut self, name: &str, text: &str) {
        let line = format!("{name}: {text}");
        self.put(&line);
        self.extra.push(line);
        self.draw();
    }

    /// Writes a line, unless lines are drawn in place.
    fn put(&self, line: &str) {
        if !self.terminal && !self.quiet {
            // Progress that cannot be shown is not worth failing for.
            let _ = say!("{line}");
        }
    }

    fn draw(&mut self) {
        if !self.terminal || self.quiet {
            return;
        }
        let mut lines = self.extra.clone();
        lines.extend(self.picture.iter().cloned());
        lines.extend(self.verify.clone());
        if lines == self.drawn {
            return;
        }
        let mut out = String::new();
        if !self.drawn.is_empty() {
            out.push_str(&format!("\x1b[{}A", self.drawn.len()));
        }
        let width = width();
        for line in &lines {
            let line: String = line.chars().take(width).collect();
            out.push_str(&format!("\r\x1b[2K{line}\n"));
        }
        out.push_str("\x1b[J");
        let _ = crate::format::write(&out);
        self.drawn = lines;
    }
}

fn render(picture: &Picture, bars: bool) -> Vec<String> {
    let mut lines = head(picture, bars);
    let goal = GOAL + usize::from(picture.job.is_some());
    for Bar { name, state, error } in &picture.bars {
        let (word, done) = place(*state);
        let text = if !error.is_empty() {
            error.clone()
        } else if bars {
            let is_complete = *state == TaskState::COMPLETE;
            let done = if is_complete { goal } else { done };
            format!("{word:<STATE$} {}", drawn(done, goal))
        } else {
            word
        };
        lines.push(format!("{name}: {text}").trim_end().to_owned());
    }
    lines
}

/// The lines about all tasks, in Docker's words.
fn head(picture: &Picture, bars: bool) -> Vec<String> {
    let Picture { done, wanted, .. } = picture;
    let Some(active) = &picture.job else {
        return vec![format!("overall progress: {done} out of {wanted} tasks")];
    };
    if *active == Active::Awaited {
        return vec!["job progress: waiting for tasks".to_owned()];
    }
    let width = wanted.to_string().len();
    let mut line = format!("job progress: {done:>width$} out of {wanted} complete");
    if bars && *wanted > 0 {
        line = format!("{line} {}", drawn(*done, *wanted));
    }
    let mut lines = vec![line];
    if let Active::Some(active, at_once) = active {
        lines.push(format!("active tasks: {active} out of {at_once} tasks"));
    }
    lines
}

/// A bar that is filled as far.
pub(super) fn drawn(done: usize, goal: usize) -> String {
    let full = BAR * done.min(goal) / goal;
    let head = if full > 0 { ">" } else { "" };
    format!("[{}{head}{}]", "=".repeat(full), " ".repeat(BAR - full))
}

fn width() -> usize {
    crate::terminal::size().map_or(80, |(_, columns)| usize::from(columns).max(20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_bars() {
        let bar = |state, error: &str| Bar {
            name: "1/1".to_owned(),
            state,
            error: error.to_owned(),
        };
        let picture = |bar| Picture {
            done: 1,
            wanted: 1,
            bars: vec![bar],
            job: None,
        };
        let running = picture(bar(TaskState::RUNNING, ""));
        assert_eq!(
            render(&running, false),
            ["overall progress: 1 out of 1 tasks", "1/1: running"]
        );
        assert_eq!(
            render(&running, true)[1],
            format!("1/1: running   [{}>]", "=".repeat(BAR))
        );
        assert_eq!(
            render(&picture(bar(TaskState::REJECTED, "no such image")), true)[1],
            "1/1: no such image"
        );
        let mut job = picture(bar(TaskState::RUNNING, ""));
        (job.wanted, job.job) = (10, Some(Active::Some(2, 3)));
        assert_eq!(
            render(&job, false),
            [
                "job progress:  1 out of 10 complete",
                "active tasks: 2 out of 3 tasks",
                "1/1: running"
            ]
        );
        let lines = render(&job, true);
        assert_eq!(
            lines[0],
            format!(
                "job progress:  1 out of 10 complete [{}>{}]",
                "=".repeat(5),
                " ".repeat(45)
            )
        );
        assert!(
            lines[2].contains("=>      ]"),
            "it has not completed: {lines:?}"
        );
        job.job = Some(Active::Awaited);
        assert_eq!(render(&job, false)[0], "job progress: waiting for tasks");
    }
}
