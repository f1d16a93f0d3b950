package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// KafkaVersion is the Apache Kafka that tests run.
const KafkaVersion = "4.3.1"

// pom lets Maven fetch a broker: its tools bring the storage formatter.
const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>earshot.test</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>` + KafkaVersion + `</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>` + KafkaVersion + `</version></dependency>
  </dependencies>
</project>
`

// kafkaLibs returns the folder of the broker's jars, fetched into the user's cache when they are not there.
func kafkaLibs(tb testing.TB) string {
	tb.Helper()
	for _, tool := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(tool); err != nil {
			Missing(tb, tool+" (Java 17 and Maven start the real Kafka)", err)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	dir := filepath.Join(cache, "earshot", "kafka-"+KafkaVersion)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		tb.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { // packages are tested side by side
		tb.Fatal(err)
	}
	libs := filepath.Join(dir, "libs")
	if _, err := os.Stat(libs); err == nil {
		return libs
	}
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		tb.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	if err := os.WriteFile(filepath.Join(tmp, "pom.xml"), []byte(pom), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs")
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("fetch Apache Kafka %s with Maven: %v\n%s", KafkaVersion, err, out)
	}
	if err := os.Rename(filepath.Join(tmp, "libs"), libs); err != nil {
		tb.Fatal(err)
	}
	return libs
}

// Kafka is a cluster of real brokers, each its own controller, too.
type Kafka struct {
	tb      testing.TB
	libs    string
	id      string
	nodes   []*node
	brokers []string
}

type node struct {
	dir        string
	addr       string
	properties string
	process    *Process
}

// StartKafka starts n brokers with replication over all of them (three at most) and min.insync.replicas one less. They end with the test.
func StartKafka(tb testing.TB, n int) *Kafka {
	tb.Helper()
	k := &Kafka{tb: tb, libs: kafkaLibs(tb)}
	k.id = strings.TrimSpace(k.tool("kafka.tools.StorageTool", "random-uuid"))
	replicas := min(n, 3)
	var voters []string
	for i := range n {
		broker, controller := FreePort(tb), FreePort(tb)
		node := &node{dir: filepath.Join(tb.TempDir(), fmt.Sprintf("kafka-%d", i+1)), addr: Addr(broker)}
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, Addr(controller)))
		node.properties = fmt.Sprintf("listeners=PLAINTEXT://%s,CONTROLLER://%s\nnode.id=%d\nlog.dirs=%s\n", node.addr, Addr(controller), i+1, filepath.Join(node.dir, "log"))
		k.nodes, k.brokers = append(k.nodes, node), append(k.brokers, node.addr)
	}
	common := fmt.Sprintf(`process.roles=broker,controller
controller.quorum.voters=%s
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
auto.create.topics.enable=false
default.replication.factor=%[2]d
offsets.topic.replication.factor=%[2]d
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=%[2]d
transaction.state.log.min.isr=%[3]d
share.coordinator.state.topic.replication.factor=%[2]d
share.coordinator.state.topic.min.isr=%[3]d
min.insync.replicas=%[3]d
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
`, strings.Join(voters, ","), replicas, max(replicas-1, 1))
	for i, node := range k.nodes {
		if err := os.MkdirAll(node.dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		file := filepath.Join(node.dir, "server.properties")
		if err := os.WriteFile(file, []byte(common+node.properties), 0o600); err != nil {
			tb.Fatal(err)
		}
		k.tool("kafka.tools.StorageTool", "format", "-t", k.id, "-c", file)
		k.launch(i)
	}
	k.Await()
	return k
}

func (k *Kafka) java(args ...string) []string {
	return append([]string{"-cp", filepath.Join(k.libs, "*"), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"}, args...)
}

func (k *Kafka) tool(args ...string) string {
	k.tb.Helper()
	out, err := exec.Command("java", k.java(args...)...).Output()
	if err != nil {
		k.tb.Fatalf("kafka %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (k *Kafka) launch(i int) {
	args := k.java("-Xmx384m", "kafka.Kafka", filepath.Join(k.nodes[i].dir, "server.properties"))
	k.nodes[i].process = Start(k.tb, fmt.Sprintf("kafka-%d", i+1), nil, "java", args...)
}

// Await returns once every running broker takes connections.
func (k *Kafka) Await() {
	k.tb.Helper()
	for _, n := range k.nodes {
		Eventually(k.tb, 90*time.Second, "a broker at "+n.addr, func() bool { return !n.process.Running() || listening(n.addr) })
		if !n.process.Running() {
			k.tb.Fatalf("broker %s ended:\n%s", n.addr, n.process.Output())
		}
	}
}

// Brokers returns host:port of every broker.
func (k *Kafka) Brokers() []string { return k.brokers }

// Broker returns the process of broker i, counted from 0.
func (k *Kafka) Broker(i int) *Process { return k.nodes[i].process }

// Restart starts broker i again after it was killed.
func (k *Kafka) Restart(i int) { k.launch(i) }
