// Package embedded runs the two parts that `earshot up` would otherwise ask the
// user to install: a Kafka broker inside this process and a ClickHouse server in
// a child process. Both listen on loopback and speak their real protocols, so
// every service reaches them over the network, as it would in production.
//
//	LockDir       --> one `up` to a data directory
//	StartBroker   --> franz-go's kfake with its log on disk
//	EnsureEngine  --> libchdb in the user's cache, fetched with npm, checked
//	StartClickHouse --> a child of this binary that loads it, supervised
//
// What was acknowledged survives kill -9 of any of these processes; it does not
// survive a power cut, since neither part waits for the disk on each write. They
// are the development default. Production uses an Apache Kafka and a ClickHouse
// cluster, and imports nothing from here.
//
// The package may import franz-go's kfake (no other package outside tests may)
// and clickhouse-go. It is tested on Linux with glibc. On macOS it compiles, and needs a
// library that LibraryEnv names.
package embedded
