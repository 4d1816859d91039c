//! Durations and sizes as the config writes them: a number with a unit. Never a bare number, never a negative one.

use super::text::text_type;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const DURATIONS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: &[(&str, u64)] =
    &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("kB", 1_000), ("MB", 1_000_000)];

text_type! {
    /// A span of time: a number with `ms`, `s`, `m`, `h` or `d`, e.g. `"1.5s"`.
    Period(Duration), format = "duration", example = "4s"
}

text_type! {
    /// A number of bytes: a number with `B`, `KiB`, `MiB`, `GiB`, `kB` or `MB`, e.g. `"8MiB"`.
    Size(u64), format = "size", example = "8MiB"
}

impl Copy for Period {}
impl Copy for Size {}

impl Period {
    /// A period of so many milliseconds.
    #[must_use]
    pub const fn ms(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// A period of so many seconds.
    #[must_use]
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

impl Size {
    /// A size of so many KiB.
    #[must_use]
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// A size of so many MiB.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The size for something that lies in memory.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "a duration is a number with a unit: \"250ms\", \"1.5s\", \"2m\", \"24h\" or \"7d\"";
        number_with_unit(text, DURATIONS, example).map(Self::ms)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "a size is a number with a unit: \"512B\", \"256KiB\", \"8MiB\", \"1GiB\", \"64kB\" or \"1MB\"";
        number_with_unit(text, SIZES, example).map(Self)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        largest_exact_unit(ms, DURATIONS, f)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        largest_exact_unit(self.0, &SIZES[..4], f)
    }
}

/// Parses `<digits>[.<digits>]<unit>` in integers: `1.5s` is exactly 1500 ms; what is no whole number of the smallest
/// unit is refused.
fn number_with_unit(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let Some(&(_, scale)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(example.to_owned());
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(example.to_owned());
    }
    let too_long = || format!("{text} is too large or too fine");
    let power =
        u32::try_from(fraction.len()).ok().and_then(|places| 10_u128.checked_pow(places)).ok_or_else(too_long)?;
    let parts = |digits: &str, scale: u64| digits.parse::<u64>().ok().map(|n| u128::from(n) * u128::from(scale));
    let fine = parts(fraction, scale).ok_or_else(too_long)?;
    if fine % power != 0 {
        return Err(format!("{text} is no whole number of {}", units[0].0));
    }
    let total = parts(whole, scale).ok_or_else(too_long)? + fine / power;
    u64::try_from(total).map_err(|_| too_long())
}

fn largest_exact_unit(count: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let exact = units.iter().rfind(|(_, scale)| count.is_multiple_of(*scale) && count >= *scale).unwrap_or(&units[0]);
    write!(f, "{}{}", count / exact.1, exact.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_exact() {
        for (text, ms) in [("250ms", 250), ("1.5s", 1_500), ("2m", 120_000), ("0.25h", 900_000), ("7d", 604_800_000)] {
            assert_eq!(text.parse(), Ok(Period::ms(ms)), "{text}");
        }
        for (text, bytes) in
            [("512B", 512), ("0.5KiB", 512), ("1.5MiB", 1_572_864), ("64kB", 64_000), ("1 GiB", 1 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_exact_number_of_units_is_refused() {
        for wrong in
            ["", "4", "s", "4 sec", "-4s", "+4s", "1e3s", ".5s", "5.s", "1.2.3s", "0.5ms", "4S", "99999999999999999d"]
        {
            assert!(wrong.parse::<Period>().is_err(), "{wrong}");
        }
        for wrong in ["8", "8mb", "0.3B", "0.0001KiB", "8 MiBs", "0.00000000000000000000000000000000000001GiB"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(n in 0..u64::MAX / 2) {
            prop_assert_eq!(Period::ms(n).to_string().parse(), Ok(Period::ms(n)));
            prop_assert_eq!(Size(n).to_string().parse(), Ok(Size(n)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let read = (text.parse::<Period>().is_ok(), text.parse::<Size>().is_ok());
            prop_assert!(!(read.0 && read.1), "no unit is both");
        }
    }
}
