//! The other values that keys take.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use lb_common::hash::Seed;
use lb_common::limits::MAX_TABLE_SIZE;
use tracing_subscriber::EnvFilter;

use crate::model::Grace;

use super::problem::{Fault, nearest};
use super::scalar::Scalar;
use super::tree::Value;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Below the timers' resolution a time-out means nothing.
const SHORTEST: Duration = Duration::from_millis(10);
const NAMES: &str = "a name is made of the letters A to Z and a to z, digits, \".\", \"_\" and \"-\"";
const DURATIONS: &str = "such as \"500ms\", \"30s\", \"5m\" or \"1h30m\"";

/// `true` or `false`.
pub(super) fn boolean(scalar: &Scalar<'_>) -> Result<bool, Fault> {
    scalar.boolean()
}

/// An integer within a range.
pub(super) fn integer(range: RangeInclusive<u32>) -> impl Fn(&Scalar<'_>) -> Result<u32, Fault> {
    move |scalar| scalar.integer(&range)
}

/// A weight, 0 to 65535.
pub(super) fn weight(scalar: &Scalar<'_>) -> Result<u16, Fault> {
    let weight = scalar.integer(&(0..=u32::from(u16::MAX)))?;
    Ok(u16::try_from(weight).unwrap_or(u16::MAX))
}

/// A prime that a Maglev table can have as its size.
pub(super) fn table_size(scalar: &Scalar<'_>) -> Result<u32, Fault> {
    let size = scalar.integer(&(2..=MAX_TABLE_SIZE))?;
    if is_prime(size) {
        return Ok(size);
    }
    let fault = Fault::new("is not a prime");
    Err(match prime_from(size) {
        Some(prime) => fault.hint(format!("the next one is {prime}")),
        None => fault,
    })
}

/// The smallest table size from `least` on.
pub(super) fn prime_from(least: u32) -> Option<u32> {
    (least..=MAX_TABLE_SIZE).find(|&size| is_prime(size))
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

/// A duration of 10 ms to a year.
pub(super) fn duration(scalar: &Scalar<'_>) -> Result<Duration, Fault> {
    let duration = duration_or_zero(scalar)?;
    if duration < SHORTEST {
        return Err(Fault::new("is shorter than 10ms").hint("write \"10ms\" or more"));
    }
    Ok(duration)
}

/// A duration of up to a year.
pub(super) fn duration_or_zero(scalar: &Scalar<'_>) -> Result<Duration, Fault> {
    let unit = match scalar.value {
        Value::Integer(number) => format!("write it with its unit: \"{number}ms\" or \"{number}s\""),
        _ => format!("a duration in quotes, {DURATIONS}"),
    };
    let text = scalar.text(&unit)?;
    let duration = humantime::parse_duration(&text).map_err(|_| {
        let fault = Fault::new("is not a duration");
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            fault.hint(format!("say the unit: \"{text}ms\" or \"{text}s\""))
        } else {
            fault.hint(DURATIONS)
        }
    })?;
    if duration > YEAR {
        return Err(Fault::new("is longer than a year of 365 days").hint("write \"8760h\" or less"));
    }
    Ok(duration)
}

/// A duration, or `forever`.
pub(super) fn grace(scalar: &Scalar<'_>) -> Result<Grace, Fault> {
    match scalar.text("").as_deref() {
        Ok("forever") => Ok(Grace::Forever),
        Ok(text) if text.eq_ignore_ascii_case("forever") => {
            Err(Fault::new("is not a duration").hint("did you mean \"forever\"?"))
        }
        _ => duration_or_zero(scalar).map(Grace::For),
    }
}

/// The name of a service or a pool.
pub(super) fn name(scalar: &Scalar<'_>) -> Result<String, Fault> {
    let text = scalar.text("a name in quotes")?;
    if text.is_empty() {
        return Err(Fault::new("is empty").hint(NAMES));
    }
    if text.chars().count() > 64 {
        return Err(Fault::new("is longer than 64 characters").hint("shorten it"));
    }
    match text.chars().find(|&c| !(c.is_ascii_alphanumeric() || "._-".contains(c))) {
        Some(odd) => Err(Fault::new(format!("holds {odd:?}")).hint(NAMES)),
        None => Ok(text.into_owned()),
    }
}

/// The name of a network interface.
pub(super) fn interface(scalar: &Scalar<'_>) -> Result<String, Fault> {
    let text = scalar.text("the name of a network interface in quotes")?;
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    // IFNAMSIZ is 16 with the final NUL (linux/if.h).
    if text.is_empty() || text.len() > 15 || text.contains(odd) || text == "." || text == ".." {
        return Err(Fault::new("is not the name of a network interface")
            .hint("1 to 15 bytes without \"/\", \":\" and spaces, as `ip link` shows them"));
    }
    Ok(text.into_owned())
}

/// An absolute path.
pub(super) fn path(scalar: &Scalar<'_>) -> Result<PathBuf, Fault> {
    let text = scalar.text("a path in quotes")?;
    if !text.starts_with('/') {
        return Err(Fault::new("is not an absolute path")
            .hint("begin it with \"/\": the daemon's working directory is not yours"));
    }
    if text.contains(char::is_control) {
        return Err(Fault::new("holds a control character").hint("delete it"));
    }
    Ok(PathBuf::from(text.as_ref()))
}

/// The path of a unix socket.
pub(super) fn socket(scalar: &Scalar<'_>) -> Result<PathBuf, Fault> {
    let path = path(scalar)?;
    // sun_path is 108 bytes with the final NUL (unix(7)).
    if path.as_os_str().len() > 107 {
        return Err(Fault::new("is longer than the 107 bytes that the name of a unix socket may have")
            .hint("choose a directory with a shorter path"));
    }
    Ok(path)
}

/// A filter for the log.
pub(super) fn log_filter(scalar: &Scalar<'_>) -> Result<String, Fault> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = scalar.text("a log filter in quotes, such as \"info\"")?;
    let levels = || format!("a level is one of {}", LEVELS.join(", "));
    let fault = |reason: String| Fault::new(reason).hint(levels());
    // A filter takes a word that is no level as the name of a module, and then nothing else is logged.
    if text.chars().all(|c| c.is_ascii_alphanumeric()) && !LEVELS.contains(&text.to_lowercase().as_str()) {
        let fault = fault("is not a log level".to_owned());
        return Err(match nearest(&text, LEVELS) {
            Some(level) => fault.hint(format!("did you mean {level:?}?")),
            None => fault,
        });
    }
    EnvFilter::builder().parse(&text).map_err(|error| fault(format!("is not a log filter: {error}")))?;
    Ok(text.into_owned())
}

/// `random`, or the 16 bytes of a SipHash key as 32 hex digits: as the function's paper has it, each half is
/// one word with its first byte lowest.
pub(super) fn hash_seed(scalar: &Scalar<'_>) -> Result<Option<Seed>, Fault> {
    let text = scalar.text("\"random\" or 32 hex digits in quotes")?;
    if text == "random" {
        return Ok(None);
    }
    let fault =
        |reason: String| Fault::new(reason).hint("`openssl rand -hex 16` makes one, or write \"random\"");
    if let Some(odd) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
        return Err(fault(format!("holds {odd:?}, which is no hex digit")));
    }
    if text.len() != 32 {
        return Err(fault(format!("has {} hex digits instead of 32", text.len())));
    }
    let key = u128::from_str_radix(&text, 16).map_err(|_| fault("is not a number".to_owned()))?;
    let word = |half: u128| (half as u64).swap_bytes();
    Ok(Some([word(key >> 64), word(key)]))
}

#[cfg(test)]
mod tests {
    use super::super::Environment;
    use super::*;

    fn read<T>(text: &str, read: impl Fn(&Scalar<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        read(&Scalar { value: &Value::Text(text.to_owned()), environment: &Environment::new() })
    }

    #[test]
    fn primes() {
        let small: Vec<u32> = (0..30).filter(|&n| is_prime(n)).collect();
        assert_eq!(small, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(MAX_TABLE_SIZE));
        assert_eq!(prime_from(65_536), Some(65_537));
        assert_eq!(prime_from(MAX_TABLE_SIZE + 1), None);
    }

    #[test]
    fn the_seed_is_read_like_a_siphash_key() {
        let seed = read("000102030405060708090a0b0c0d0e0f", hash_seed).unwrap();
        assert_eq!(seed, Some([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]));
        assert_eq!(read("random", hash_seed).unwrap(), None);
        for bad in ["", "Random", "00", "g00102030405060708090a0b0c0d0e0f", "é00102030405060708090a0b0c0d0e0"]
        {
            assert!(read(bad, hash_seed).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [("500ms", 500), ("1s", 1000), ("5m", 300_000), ("1h30m", 5_400_000)] {
            assert_eq!(read(text, duration), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "-1s", "1 fortnight", "9ms", "366d", "99999999999999999999h", "forever"] {
            assert!(read(bad, duration).is_err(), "{bad}");
        }
        assert_eq!(read("0s", grace), Ok(Grace::For(Duration::ZERO)));
        assert_eq!(read("forever", grace), Ok(Grace::Forever));
    }

    #[test]
    fn log_filters() {
        for good in ["info", "DEBUG", "warn,sluice=trace", "lb_userspace::health=debug,info"] {
            assert_eq!(read(good, log_filter).as_deref(), Ok(good));
        }
        for bad in ["", "infoo", "sluice=loud", "a=b=c"] {
            assert!(read(bad, log_filter).is_err(), "{bad}");
        }
    }
}
