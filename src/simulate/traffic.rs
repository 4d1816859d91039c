//! The traffic: requests drawn from a seed. Never sends one.

use super::{Shape, SimulateArgs};
use bulkhead_core::time::WallMs;
use fake::Fake as _;
use fake::faker::address::en::CityName;
use fake::faker::company::en::CompanyName;
use fake::faker::internet::en::{IPv4, SafeEmail, UserAgent};
use fake::faker::lorem::en::{Sentence, Word};
use fake::faker::name::en::Name;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_distr::{Distribution as _, Exp, Zipf};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How unevenly users and products are used: the first of them most.
const SKEW: f64 = 1.1;
/// How many products there are.
const PRODUCTS: f64 = 500.0;
/// How many events a body has that brings several, at most.
const MANY_MAX: usize = 20;
/// How many requests a burst has on average, and how much faster they come in one.
const BURST: (f64, f64) = (25.0, 10.0);
const EVENT_TYPES: [&str; 8] =
    ["page_view", "click", "login", "logout", "search", "add_to_cart", "purchase", "profile_update"];
const DEVICES: [&str; 5] = ["ios", "android", "windows", "macos", "linux"];

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    pub(super) body: String,
    pub(super) content_type: &'static str,
    /// Whether it must be refused.
    pub(super) is_bad: bool,
    /// How many records it brings, where it is right.
    pub(super) records: u64,
    /// How long after the one before it it is sent.
    pub(super) after: Duration,
}

/// Draws requests.
pub(super) struct Traffic {
    rng: StdRng,
    shape: Body,
    users: Zipf<f64>,
    products: Zipf<f64>,
    bad: f64,
    many: f64,
    rate: Option<f64>,
    /// How many requests the burst still has.
    burst: u64,
    drawn: u64,
}

enum Body {
    Shape(Shape),
    Template(Value),
}

impl Traffic {
    pub(super) fn new(args: &SimulateArgs) -> Result<Self, String> {
        let shape = match &args.template {
            None => Body::Shape(args.shape.unwrap_or_else(|| Shape::of_path(args.url.path()))),
            Some(path) => {
                let unreadable = |why: String| format!("--template {}: {why}", path.display());
                let text = std::fs::read(path).map_err(|why| unreadable(why.to_string()))?;
                let template = serde_json::from_slice(&text).map_err(|why| unreadable(format!("is no JSON: {why}")))?;
                unknown_placeholder(&template).map_err(unreadable)?;
                Body::Template(template)
            }
        };
        let zipf = |count: f64| Zipf::new(count, SKEW).map_err(|why| why.to_string());
        Ok(Self {
            rng: StdRng::seed_from_u64(args.seed),
            shape,
            users: zipf(args.users as f64)?,
            products: zipf(PRODUCTS)?,
            bad: args.bad,
            many: args.many,
            rate: args.rate.map(|rate| rate as f64),
            burst: 0,
            drawn: 0,
        })
    }

    /// The next request.
    pub(super) fn draw(&mut self) -> Drawn {
        self.drawn += 1;
        let (after, is_bad) = (self.pause(), self.rng.random_bool(self.bad));
        let is_many = matches!(self.shape, Body::Shape(Shape::Event)) && self.rng.random_bool(self.many);
        let count = if is_many { self.rng.random_range(2..=MANY_MAX) } else { 1 };
        let mut bodies: Vec<Value> = (0..count).map(|_| self.body()).collect();
        if is_bad {
            let at = self.rng.random_range(0..count);
            if let Some(text) = self.spoil(&mut bodies[at]) {
                return Drawn { body: text, content_type: "application/json", is_bad, records: 0, after };
            }
        }
        let (body, content_type) = match bodies.as_slice() {
            [one] => (one.to_string(), "application/json"),
            many if self.rng.random_bool(0.5) => (json!(many).to_string(), "application/json"),
            many => (many.iter().map(|body| format!("{body}\n")).collect(), "application/x-ndjson"),
        };
        Drawn { body, content_type, is_bad, records: if is_bad { 0 } else { count as u64 }, after }
    }

    /// Within a burst requests come ten times as fast, between bursts as slowly as the rate needs it.
    fn pause(&mut self) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let (length, speed) = BURST;
        let mean = if self.burst > 0 {
            self.burst -= 1;
            1.0 / (rate * speed)
        } else {
            self.burst = draw_exp(&mut self.rng, length).round().clamp(1.0, 10.0 * length) as u64;
            // A burst takes a tenth of its requests' time: the pause before it is the rest.
            length / rate * (1.0 - 1.0 / speed)
        };
        Duration::from_secs_f64(draw_exp(&mut self.rng, mean))
    }

    fn user(&mut self) -> u64 {
        self.users.sample(&mut self.rng) as u64
    }

    fn body(&mut self) -> Value {
        match &self.shape {
            Body::Shape(Shape::Event) => self.event(),
            Body::Shape(Shape::Order) => self.order(),
            Body::Shape(Shape::Query) => {
                let user = self.user();
                json!({ "session": format!("s-{user}"), "text": Sentence(3..12).fake_with_rng::<String, _>(&mut self.rng) })
            }
            Body::Template(template) => {
                let template = template.clone();
                self.fill(&template)
            }
        }
    }

    fn event(&mut self) -> Value {
        let user = self.user();
        let mut event = json!({
            "event_type": self.pick(&EVENT_TYPES),
            "user_id": format!("u-{user}"),
            "properties": {
                "device": self.pick(&DEVICES),
                "ip": self.word("ip"),
                "city": self.word("city"),
                "user_agent": self.word("user_agent"),
                "product_id": self.word("product_id"),
            },
        });
        // Some clients leave the time to the server.
        if self.rng.random_bool(0.8) {
            event["timestamp"] = self.word("now").into();
        }
        event
    }

    /// Prices in cents; the total is their sum, and written as a decimal number.
    fn order(&mut self) -> Value {
        let (user, count) = (self.user(), self.rng.random_range(1..=5));
        let mut total = 0;
        let items: Vec<Value> = (0..count)
            .map(|_| {
                let (cents, quantity) = (self.rng.random_range(99..20_000_u64), self.rng.random_range(1..=4_u64));
                total += cents * quantity;
                json!({ "product_id": self.word("product_id"), "quantity": quantity, "price": decimal(cents) })
            })
            .collect();
        // Customers whose id ends in f are rejected on purpose by the shipped pipeline; c is none of them.
        json!({ "customer_id": format!("c-{user}c"), "items": items, "total_amount": decimal(total) })
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words.choose(&mut self.rng).copied().unwrap_or_default()
    }

    /// What stands for a placeholder.
    fn word(&mut self, name: &str) -> String {
        let rng = &mut self.rng;
        match name {
            "n" => self.drawn.to_string(),
            "uuid" => uuid(rng.random()),
            "user_id" => format!("u-{}", self.user()),
            "user_name" => Name().fake_with_rng(rng),
            "email" => SafeEmail().fake_with_rng(rng),
            "ip" => IPv4().fake_with_rng(rng),
            "user_agent" => UserAgent().fake_with_rng(rng),
            "device" => self.pick(&DEVICES).to_owned(),
            "city" => CityName().fake_with_rng(rng),
            "company" => CompanyName().fake_with_rng(rng),
            "event_type" => self.pick(&EVENT_TYPES).to_owned(),
            "product_id" => format!("p-{}", self.products.sample(rng) as u64),
            "quantity" => rng.random_range(1..=9).to_string(),
            "price" => cents(rng.random_range(99..20_000)),
            "word" => Word().fake_with_rng(rng),
            "sentence" => Sentence(3..12).fake_with_rng(rng),
            _ => now(),
        }
    }

    fn fill(&mut self, template: &Value) -> Value {
        match template {
            Value::String(text) => self.fill_text(text),
            Value::Array(values) => values.iter().map(|value| self.fill(value)).collect(),
            Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), self.fill(value))).collect(),
            other => other.clone(),
        }
    }

    fn fill_text(&mut self, text: &str) -> Value {
        if let "{{n}}" | "{{quantity}}" | "{{price}}" = text {
            let number = self.word(text.trim_matches(['{', '}']));
            return serde_json::from_str(&number).unwrap_or(Value::String(number));
        }
        let (mut filled, mut rest) = (String::new(), text);
        while let Some((before, name, after)) = placeholder(rest) {
            filled.push_str(before);
            filled.push_str(&self.word(name));
            rest = after;
        }
        Value::String(filled + rest)
    }

    /// Makes a body one that must be refused; a text where it is no JSON any more.
    fn spoil(&mut self, body: &mut Value) -> Option<String> {
        let field = |body: &mut Value, name: &str, value: Value| body[name] = value;
        match (&self.shape, self.rng.random_range(0..4)) {
            (Body::Template(_), _) | (_, 0) => {
                let text = body.to_string();
                return Some(text[..text.len() - 1].to_owned());
            }
            (Body::Shape(Shape::Event), 1) => field(body, "event_type", json!("")),
            (Body::Shape(Shape::Event), 2) => field(body, "user_id", json!(17)),
            (Body::Shape(Shape::Event), _) => field(body, "properties", json!(["no", "object"])),
            (Body::Shape(Shape::Order), 1) => body["items"][0]["quantity"] = json!(-1),
            (Body::Shape(Shape::Order), 2) => field(body, "total_amount", json!(0.01)),
            (Body::Shape(Shape::Order), _) => field(body, "customer_id", Value::Null),
            (Body::Shape(Shape::Query), _) => field(body, "text", json!(7)),
        }
        None
    }
}

/// The text around the first placeholder, and its name.
fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (name, after) = rest.split_once("}}")?;
    Some((before, name, after))
}

fn unknown_placeholder(template: &Value) -> Result<(), String> {
    match template {
        Value::String(text) => {
            let mut rest = text.as_str();
            while let Some((_, name, after)) = placeholder(rest) {
                if !super::PLACEHOLDERS.contains(&format!("{{{{{name}}}}}")) {
                    return Err(format!("{{{{{name}}}}} is no placeholder. {}", super::PLACEHOLDERS));
                }
                rest = after;
            }
            Ok(())
        }
        Value::Array(values) => values.iter().try_for_each(unknown_placeholder),
        Value::Object(fields) => fields.values().try_for_each(unknown_placeholder),
        _ => Ok(()),
    }
}

fn draw_exp(rng: &mut StdRng, mean: f64) -> f64 {
    Exp::new(1.0 / mean).map_or(mean, |exp| exp.sample(rng))
}

fn cents(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// A number with two decimals. Below 2^53 cents, its shortest text is the decimal that was meant.
fn decimal(cents: u64) -> Value {
    json!(cents as f64 / 100.0)
}

fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The time as RFC 3339 in UTC, to the millisecond.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)).rfc3339()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn traffic(args: &[&str]) -> Traffic {
        let line = Line::try_parse_from([&["simulate"], args].concat()).unwrap_or_else(|e| panic!("{e}"));
        Traffic::new(&line.args).expect("its arguments are right")
    }

    /// Without what the clock says.
    fn timeless(drawn: Drawn) -> (String, bool, u64) {
        let cut = |part: &str| part.split_once('"').map_or(String::new(), |(_, rest)| rest.to_owned());
        let mut parts = drawn.body.split("\"timestamp\":\"");
        let first = parts.next().unwrap_or_default().to_owned();
        (parts.fold(first, |text, part| text + &cut(part)), drawn.is_bad, drawn.records)
    }

    #[test]
    fn one_seed_is_one_traffic() {
        let draw = |seed: &str| {
            let mut traffic = traffic(&["--seed", seed, "--rate", "1000"]);
            (0..200).map(|_| timeless(traffic.draw())).collect::<Vec<_>>()
        };
        assert_eq!(draw("7"), draw("7"));
        assert_ne!(draw("7"), draw("8"));
    }

    #[test]
    fn orders_add_up_to_the_cent_and_a_few_users_do_most() {
        let mut traffic = traffic(&["http://h/orders/", "--bad", "0"]);
        let mut customers = std::collections::BTreeMap::<String, u32>::new();
        for _ in 0..500 {
            let order: Value = serde_json::from_str(&traffic.draw().body).expect("JSON");
            let cents = |value: &Value| (value.as_f64().expect("a number") * 100.0).round() as u64;
            let items = order["items"].as_array().expect("items").iter();
            let sum: u64 = items.map(|item| cents(&item["price"]) * item["quantity"].as_u64().expect("a count")).sum();
            assert_eq!(cents(&order["total_amount"]), sum, "{order}");
            *customers.entry(order["customer_id"].to_string()).or_default() += 1;
        }
        let most = customers.values().max().copied().unwrap_or_default();
        assert!(most > 20, "of 1,000 users the first should have more than one in a thousand: {most}");
    }

    #[test]
    fn a_template_is_filled_and_its_numbers_are_numbers() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("t.json");
        std::fs::write(&path, r#"{"n": "{{n}}", "who": ["{{user_id}} of {{city}}"], "price": "{{price}}"}"#)
            .expect("written");
        let file = path.to_str().expect("UTF-8");
        let mut traffic = traffic(&["http://h/x", "--bad", "0", "--template", file]);
        let body: Value = serde_json::from_str(&traffic.draw().body).expect("JSON");
        assert_eq!(body["n"], 1);
        assert!(
            body["price"].is_number() && body["who"][0].as_str().is_some_and(|who| who.starts_with("u-")),
            "{body}"
        );
        std::fs::write(&path, r#"{"n": "{{nonsense}}"}"#).expect("written");
        let line = Line::try_parse_from(["simulate", "--template", file]).unwrap_or_else(|e| panic!("{e}"));
        let why = Traffic::new(&line.args).err().expect("there is no such placeholder");
        assert!(why.contains("{{nonsense}} is no placeholder"), "{why}");
    }

    #[test]
    fn the_mean_rate_is_what_was_asked_for() {
        let mut traffic = traffic(&["--rate", "100"]);
        let total: Duration = (0..20_000).map(|_| traffic.draw().after).sum();
        let rate = 20_000.0 / total.as_secs_f64();
        assert!((80.0..120.0).contains(&rate), "{rate}");
    }

    #[test]
    fn bad_requests_are_as_many_as_asked_for_and_bring_nothing() {
        let mut traffic = traffic(&["--bad", "0.5"]);
        let drawn: Vec<_> = (0..1_000).map(|_| traffic.draw()).collect();
        let bad = drawn.iter().filter(|one| one.is_bad).count();
        assert!((400..600).contains(&bad), "{bad}");
        assert!(drawn.iter().all(|one| one.is_bad == (one.records == 0)));
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
