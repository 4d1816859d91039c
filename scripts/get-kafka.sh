#!/usr/bin/env bash
# Fetches what a test broker needs: Apache Kafka's jars from Maven Central, and Java and Maven where they are missing
# and apt may install them. Prints the folder that holds the jars; does nothing when they are already there.
set -euo pipefail

version=4.1.0
scala=2.13
cache=${BULKHEAD_CACHE:-$HOME/.cache/bulkhead}
jars=$cache/kafka-$version

if ! command -v java >/dev/null 2>&1 || { [ ! -e "$jars/.complete" ] && ! command -v mvn >/dev/null 2>&1; }; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "get-kafka: installing a Java runtime (17 or newer) and Maven" >&2
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends default-jre-headless maven >&2
    else
        echo "get-kafka: needs java (17 or newer) and mvn on PATH; on Debian or Ubuntu:" >&2
        echo "    sudo apt-get install default-jre-headless maven" >&2
        exit 1
    fi
fi

if [ -e "$jars/.complete" ]; then
    echo "$jars"
    exit 0
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/kafka-fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
cat >"$work/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>bulkhead</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_$scala</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
    <!-- Kafka logs through slf4j; this binding writes to stderr, which the tests keep in a file. -->
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
POM
echo "get-kafka: fetching Apache Kafka $version into $jars" >&2
mvn -q -B -f "$work/pom.xml" dependency:copy-dependencies -DoutputDirectory="$work/jars" >&2
touch "$work/jars/.complete"
# Whoever comes second finds the folder in place and keeps it.
mv -T "$work/jars" "$jars" 2>/dev/null || [ -e "$jars/.complete" ]
echo "$jars"
