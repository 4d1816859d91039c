//! Amounts of money as whole cents, read exactly from the digits that were written. Never goes through a binary float,
//! and never rounds.

/// Why a text is no whole number of cents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCents {
    /// It is no decimal number as JSON writes them.
    #[error("is no decimal number")]
    NotDecimal,
    /// It has a part of a cent.
    #[error("has more than two decimal places")]
    Fraction,
    /// It is larger than any amount: more than [`DIGITS_MAX`] digits.
    #[error("is too large to be an amount: {DIGITS_MAX} digits are possible")]
    TooLarge,
}

/// Digits that an amount in cents has at most.
pub const DIGITS_MAX: usize = 36;

/// The whole cents of a decimal number in JSON's form: `12.3`, `-0.05`, `1e2`, `12.300`. `12.30` is 1230.
///
/// # Errors
/// It is none, it has a part of a cent, or it is too large.
pub fn cents(literal: &str) -> Result<i128, NoCents> {
    let (negative, unsigned) = literal.strip_prefix('-').map_or((false, literal), |rest| (true, rest));
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        None => (unsigned, 0),
        Some((mantissa, exponent)) => (mantissa, self::exponent(exponent)?),
    };
    let (whole, places) = match mantissa.split_once('.') {
        None => (mantissa, ""),
        Some((_, "")) => return Err(NoCents::NotDecimal),
        Some(parts) => parts,
    };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
    if whole.is_empty() || has_leading_zero || !is_number(whole) || !is_number(places) {
        return Err(NoCents::NotDecimal);
    }
    let digits = [whole, places].concat();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    // The amount is `significant` times ten to the power of `scale`, in cents.
    let significant = digits.trim_end_matches('0');
    let zeros = digits.len() - significant.len();
    let length = |count: usize| i64::try_from(count).map_err(|_| NoCents::TooLarge);
    let scale = exponent.saturating_sub(length(places.len())?).saturating_add(length(zeros)?).saturating_add(2);
    let scale = usize::try_from(scale).map_err(|_| NoCents::Fraction)?;
    if significant.len().saturating_add(scale) > DIGITS_MAX {
        return Err(NoCents::TooLarge);
    }
    let written = format!("{significant}{}", "0".repeat(scale));
    let amount: i128 = written.parse().map_err(|_| NoCents::TooLarge)?;
    Ok(if negative { -amount } else { amount })
}

/// A JSON exponent; one beyond any use is taken for the largest there is.
fn exponent(text: &str) -> Result<i64, NoCents> {
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoCents::NotDecimal);
    }
    Ok(sign * digits.parse::<i64>().unwrap_or(i64::MAX / 2).min(i64::MAX / 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_what_counts() {
        let right = [
            ("0", 0),
            ("-0", 0),
            ("0.00", 0),
            ("0e9999999999999999999", 0),
            ("12", 1_200),
            ("12.3", 1_230),
            ("12.300", 1_230),
            ("0.1", 10),
            ("0.29", 29),
            ("-0.05", -5),
            ("1e2", 10_000),
            ("1.5E+1", 1_500),
            ("1234e-2", 1_234),
            ("1200e-4", 12),
            ("9007199254740993.01", 900_719_925_474_099_301),
        ];
        for (text, amount) in right {
            assert_eq!(cents(text), Ok(amount), "{text}");
        }
        let nines = "9".repeat(DIGITS_MAX - 2);
        assert_eq!(cents(&nines), Ok(10_i128.pow(36) - 100));
    }

    #[test]
    fn what_is_no_amount_is_told_apart() {
        for text in ["", "-", ".", "1.", ".5", "01", "+1", "1,00", "1e", "1e+", "1e5.0", "NaN", "1 ", "--1", "0x10"] {
            assert_eq!(cents(text), Err(NoCents::NotDecimal), "{text}");
        }
        for text in ["0.001", "1.005", "1e-3", "1e-9999999999999999999", "12.3000001"] {
            assert_eq!(cents(text), Err(NoCents::Fraction), "{text}");
        }
        for text in ["1e35", "1e9999999999999999999", &"9".repeat(DIGITS_MAX - 1)] {
            assert_eq!(cents(text), Err(NoCents::TooLarge), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_comes_back(amount in -1_000_000_000_000_i64..1_000_000_000_000, zeros in 0_usize..4) {
            let sign = if amount < 0 { "-" } else { "" };
            let (whole, rest) = (amount.abs() / 100, amount.abs() % 100);
            let text = format!("{sign}{whole}.{rest:02}{}", "0".repeat(zeros));
            prop_assert_eq!(cents(&text), Ok(i128::from(amount)));
            let text = format!("{}e-2", amount);
            prop_assert_eq!(cents(&text), Ok(i128::from(amount)));
        }

        #[test]
        fn nothing_panics(text in "[-+0-9.eE]{0,40}") {
            if let Ok(amount) = cents(&text) {
                let float: f64 = text.parse().expect("what is an amount is a number");
                prop_assert!((float * 100.0 - amount as f64).abs() <= float.abs() * 1e-10, "{amount}");
            }
        }
    }
}
