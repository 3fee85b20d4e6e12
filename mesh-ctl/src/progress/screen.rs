//! Draws the progress: in place on a terminal, a line per change elsewhere.

use std::io::IsTerminal;

use super::{GOAL, Picture, place};

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
        let lines = render(picture, self.terminal);
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
    let mut lines = vec![format!(
        "overall progress: {} out of {} tasks",
        picture.done, picture.wanted
    )];
    for bar in &picture.bars {
        let (word, done) = place(bar.state);
        let text = if !bar.error.is_empty() {
            bar.error.clone()
        } else if bars {
            let full = BAR * done / GOAL;
            let head = if full > 0 { ">" } else { "" };
            format!(
                "{word:<STATE$} [{}{head}{}]",
                "=".repeat(full),
                " ".repeat(BAR - full)
            )
        } else {
            word
        };
        lines.push(format!("{}: {text}", bar.name).trim_end().to_owned());
    }
    lines
}

fn width() -> usize {
    crate::terminal::size().map_or(80, |(_, columns)| usize::from(columns).max(20))
}

#[cfg(test)]
mod tests {
    use mesh_api::engine::TaskState;

    use super::{super::Bar, *};

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
    }
}
