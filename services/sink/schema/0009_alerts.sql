CREATE VIEW IF NOT EXISTS message_db.alerts
(
    alert_id         String COMMENT 'Same records, same id.',
    user_id          String COMMENT 'Sender of the messages.',
    state            String COMMENT 'open, confirmed, resolved or retracted.',
    triggered_at     DateTime64(3, 'UTC') COMMENT 'created_at of the message that crossed the threshold.',
    count            UInt32 COMMENT 'Most messages in one span of the episode.',
    threshold        UInt32 COMMENT 'Messages within the span that make an episode.',
    span_seconds     UInt32 COMMENT 'Length of the span.',
    window_start     DateTime64(3, 'UTC') COMMENT 'triggered_at less the span.',
    window_end       DateTime64(3, 'UTC') COMMENT 'created_at of the last message over the threshold.',
    message_ids      Array(String) COMMENT 'The messages up to the trigger, oldest first.',
    positions        Array(Tuple(Int32, Int64)) COMMENT 'Partition and offset of each of them in chat.messages.',
    conversation_ids Array(String) COMMENT 'Their distinct conversations.',
    superseded_by    String COMMENT 'The alert that took over; empty unless retracted.',
    revision         UInt32 COMMENT 'Grows with each change.',
    rule             String COMMENT 'Version of the rule.',
    accepted_at      DateTime64(3, 'UTC') COMMENT 'When Kafka took its newest record.',
    _partition       Int32 COMMENT 'Partition of its first record in anomaly-alerts.',
    _offset          Int64 COMMENT 'Offset of its first record.'
)
AS SELECT
    alert_id,
    user_id,
    toString(rows.state) AS state,
    triggered_at,
    count,
    threshold,
    span_seconds,
    window_start,
    window_end,
    message_ids,
    positions,
    conversation_ids,
    rows.superseded_by.2 AS superseded_by,
    revision,
    rule,
    accepted_at,
    _partition,
    _offset
FROM message_db.alert_rows AS rows FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Every alert once, in its latest state.'
