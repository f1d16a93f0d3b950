-- Every state and copy of every alert. Read it through the view alerts.
-- What follows from alert_id is any; what grows takes its maximum, so that the order in which records come does not matter.
CREATE TABLE IF NOT EXISTS message_db.alert_rows
(
    user_id          String COMMENT 'Sender of the messages.',
    triggered_at     DateTime64(3, 'UTC') COMMENT 'created_at of the message that crossed the threshold.',
    alert_id         String COMMENT 'Same records, same id.',
    state            SimpleAggregateFunction(max, Enum8('open' = 1, 'confirmed' = 2, 'resolved' = 3, 'retracted' = 4)) COMMENT 'Never goes back.',
    count            SimpleAggregateFunction(max, UInt32) COMMENT 'Most messages in one span of the episode.',
    threshold        SimpleAggregateFunction(any, UInt32) COMMENT 'Messages within the span that make an episode.',
    span_seconds     SimpleAggregateFunction(any, UInt32) COMMENT 'Length of the span.',
    window_start     SimpleAggregateFunction(any, DateTime64(3, 'UTC')) COMMENT 'triggered_at less the span.',
    window_end       SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'created_at of the last message over the threshold.',
    message_ids      SimpleAggregateFunction(any, Array(String)) COMMENT 'The messages up to the trigger, oldest first.',
    positions        SimpleAggregateFunction(any, Array(Tuple(Int32, Int64))) COMMENT 'Partition and offset of each of them in chat.messages.',
    conversation_ids SimpleAggregateFunction(any, Array(String)) COMMENT 'Their distinct conversations.',
    superseded_by    SimpleAggregateFunction(max, Tuple(UInt32, String)) COMMENT 'Revision, and the alert that took over as of it.',
    revision         SimpleAggregateFunction(max, UInt32) COMMENT 'Grows with each change.',
    rule             SimpleAggregateFunction(any, String) COMMENT 'Version of the rule.',
    _partition       SimpleAggregateFunction(any, Int32) COMMENT 'Where its first record lies in anomaly-alerts.',
    _offset          SimpleAggregateFunction(any, Int64) COMMENT 'Where its first record lies in its partition.',
    accepted_at      SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Record time of its newest record.'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(triggered_at)
ORDER BY (user_id, triggered_at, alert_id)
SETTINGS min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
COMMENT 'Records of alerts. Read the view alerts.'
