//! Waiting for a condition with a deadline, in place of sleeping and hoping.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Calls `look` until it gives a value, or fails with its last complaint once `limit` is over.
///
/// # Errors
/// When the condition did not come true in time; the message says what was awaited and what was seen.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(anyhow!(
                    "waited {} s for {what}: {error:#}",
                    limit.as_secs()
                ));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn the_last_complaint_is_told() {
        let told = eventually("rain", Duration::ZERO, || -> Result<()> { bail!("sunny") });
        assert_eq!(told.unwrap_err().to_string(), "waited 0 s for rain: sunny");
        let mut looks = 0;
        let seen = eventually("the third look", Duration::from_secs(5), || {
            looks += 1;
            if looks == 3 {
                Ok(looks)
            } else {
                bail!("look {looks}")
            }
        });
        assert_eq!(seen.unwrap(), 3);
    }
}
