//! What Kafka's own tool says of a consumer group. Never computes a figure itself.

use crate::kafka::Kafka;

/// One line of `kafka-consumer-groups --describe`; what the tool prints as `-` is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The committed position.
    pub position: Option<i64>,
    /// The end of the partition.
    pub end: Option<i64>,
    /// Records between the two.
    pub lag: Option<i64>,
    /// The member that owns the partition.
    pub consumer: Option<String>,
}

impl Kafka {
    /// Asks Kafka's own tool about a group. Takes a JVM's start, about 2 s.
    ///
    /// # Panics
    /// When the tool fails or prints something else than a table.
    #[must_use]
    pub fn describe_group(&self, group: &str) -> Vec<GroupRow> {
        let bootstrap = self.bootstrap();
        let args = ["--bootstrap-server", &bootstrap, "--describe", "--group", group];
        let output = self.java().run("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "describe group {group}: {text}\n{errors}");
        parse(&text)
    }
}

fn parse(text: &str) -> Vec<GroupRow> {
    let mut lines = text.lines().filter(|l| !l.trim().is_empty()).skip_while(|l| !l.starts_with("GROUP"));
    let Some(head) = lines.next() else { return Vec::new() };
    let names: Vec<&str> = head.split_whitespace().collect();
    let column =
        |name: &str| names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no column {name} in: {head}"));
    let [topic, partition, position, end, lag, consumer] =
        ["TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "CONSUMER-ID"].map(column);
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            let cell = |at: usize| cells.get(at).copied().filter(|c| *c != "-");
            let number = |at: usize| cell(at).map(|c| c.parse().unwrap_or_else(|e| panic!("{c}: {e} in: {line}")));
            GroupRow {
                topic: cell(topic).unwrap_or_default().into(),
                partition: cell(partition)
                    .and_then(|c| c.parse().ok())
                    .unwrap_or_else(|| panic!("partition in: {line}")),
                position: number(position),
                end: number(end),
                lag: number(lag),
                consumer: cell(consumer).map(Into::into),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_table_becomes_rows() {
        let text = "\nConsumer group 'g' has no active members.\n\n\
            GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID\n\
            g     in    0         7              10             3   -           -    -\n\
            g     in    1         -              4              -   a-1         /h   a\n";
        let rows = parse(text);
        assert_eq!((rows[0].position, rows[0].end, rows[0].lag), (Some(7), Some(10), Some(3)));
        assert_eq!((rows[1].position, rows[1].end, rows[1].lag), (None, Some(4), None));
        assert_eq!((rows[0].consumer.as_deref(), rows[1].consumer.as_deref()), (None, Some("a-1")));
    }
}
