//! The functions that expressions can call: jq's, without those that reach outside, and with bounds on what repeats. Never
//! lets one end the process.

use super::value::parse;
use bulkhead_core::cents::cents;
use jaq_core::box_iter::box_once;
use jaq_core::data::{DataT, HasLut};
use jaq_core::load::parse::Def;
use jaq_core::native::{Fun, bome, v};
use jaq_core::{Bind, Cv, Error, Exn, Lut, Native, load};
use jaq_json::{Num, Val};
use std::cell::Cell;

/// What reaches outside or changes from run to run, what ends the process, and what is replaced below.
const LEFT_OUT: &[&str] = &[
    "env",
    "now",
    "halt",
    "halt_error",
    "debug",
    "debug_empty",
    "stderr",
    "stderr_empty",
    "localtime",
    "strflocaltime",
    "repeat",
    "recurse",
    "while",
    "until",
    "fromjson",
    "combinations",
];
/// What repeats, with its turns counted.
const COUNTED: &str = r"
def range($from; $to; $by): uncounted_range($from; $to; $by) | counted;
def repeat(f): def rec: counted | f, rec; rec;
def recurse(f): def rec: counted | ., (f | rec); rec;
def recurse: recurse(.[]?);
def recurse(f; cond): recurse(f | select(cond));
def while(cond; update): def rec: counted | if cond then ., (update | rec) else empty end; rec;
def until(cond; update): def rec: counted | if cond then . else update | rec end; rec;
";

/// What expressions work on: JSON values, with a budget.
pub(super) struct Kind;

impl DataT for Kind {
    type V<'a> = Val;
    type Data<'a> = &'a Budget<'a>;
}

/// How many turns are left to one run.
pub(super) struct Budget<'a> {
    lut: &'a Lut<Kind>,
    left: Cell<u64>,
    spent: Cell<bool>,
}

impl<'a> Budget<'a> {
    pub(super) const fn new(lut: &'a Lut<Kind>, turns: u64) -> Self {
        Self { lut, left: Cell::new(turns), spent: Cell::new(false) }
    }

    /// Whether a turn was asked for that was not left.
    pub(super) const fn is_spent(&self) -> bool {
        self.spent.get()
    }

    fn turn(&self) -> Result<(), Error<Val>> {
        match self.left.get().checked_sub(1) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.spent.set(true);
                Err(Error::str("too many turns"))
            }
        }
    }
}

impl<'a> HasLut<'a, Kind> for &'a Budget<'a> {
    fn lut(&self) -> &'a Lut<Kind> {
        self.lut
    }
}

/// The functions that are written in jq.
pub(super) fn definitions() -> Vec<Def<&'static str>> {
    let counted = load::parse(COUNTED, |parser| parser.defs()).unwrap_or_default();
    let (range, rest): (Vec<_>, Vec<_>) = counted.into_iter().partition(|def| def.name == "range");
    let kept = |def: &Def<&'static str>| !LEFT_OUT.contains(&def.name);
    let core = jaq_core::defs().filter(kept);
    let others = jaq_std::defs().chain(jaq_json::defs()).filter(kept);
    // Each may use those before it.
    range.into_iter().chain(core).chain(rest).chain(others).collect()
}

/// The functions that are written in Rust.
pub(super) fn natives() -> Vec<Fun<Kind>> {
    let theirs = jaq_core::funs::<Kind>().chain(jaq_std::funs()).chain(jaq_json::funs());
    let kept = theirs.filter(|(name, ..)| !LEFT_OUT.contains(name)).map(|(name, arguments, native)| match name {
        "range" => ("uncounted_range", arguments, native),
        _ => (name, arguments, native),
    });
    kept.chain(ours()).collect()
}

fn ours() -> [Fun<Kind>; 3] {
    let none = || -> Box<[Bind]> { v(0) };
    let counted: Native<Kind> = Native::new(|cv: Cv<'_, Kind>| bome(cv.0.data().turn().map(|()| cv.1)));
    // What repeats may stand on the left of an assignment.
    let counted = counted.with_paths(|cv| box_once(cv.0.data().turn().map(|()| cv.1).map_err(Exn::from))).with_update(
        |cv, update| match cv.0.data().turn() {
            Ok(()) => update(cv.1),
            Err(error) => bome(Err(error)),
        },
    );
    [
        ("counted", none(), counted),
        ("cents", none(), Native::new(|cv: Cv<'_, Kind>| bome(to_cents(&cv.1)))),
        ("fromjson", none(), Native::new(|cv: Cv<'_, Kind>| bome(from_json(&cv.1)))),
    ]
}

fn to_cents(val: &Val) -> Result<Val, Error<Val>> {
    let written = match val {
        Val::Num(Num::Dec(literal)) => literal.to_string(),
        Val::Num(number @ (Num::Int(_) | Num::BigInt(_))) => number.to_string(),
        Val::TStr(text) => String::from_utf8_lossy(text).into_owned(),
        Val::Num(Num::Float(_)) => {
            let why = format!("{val} was calculated, so it is no exact amount; take cents first and calculate then");
            return Err(Error::str(why));
        }
        _ => return Err(Error::typ(val.clone(), "amount")),
    };
    match cents(&written) {
        Ok(amount) => Ok(Val::Num(Num::from_integral(amount))),
        Err(why) => Err(Error::str(format!("{} {why}", super::value::shortened(&written)))),
    }
}

fn from_json(val: &Val) -> Result<Val, Error<Val>> {
    let Val::TStr(text) = val else { return Err(Error::typ(val.clone(), "string")) };
    parse(text).map_err(|why| Error::str(format!("the text {why}")))
}
