-- Receipts, each as often as it came. Read it through the view message_views.
CREATE TABLE IF NOT EXISTS message_db.message_view_rows
(
    conversation_id    String COMMENT 'Conversation of the message.',
    message_created_at DateTime64(3, 'UTC') COMMENT 'Event time of the message, as its id carries it.' CODEC(Delta, ZSTD(1)),
    message_id         String COMMENT 'Message that was viewed; it need not exist.' CODEC(ZSTD(1)),
    user_id            String COMMENT 'Who got or read it.',
    status             Enum8('delivered' = 2, 'read' = 3) COMMENT 'What happened.',
    viewed_at          SimpleAggregateFunction(min, DateTime64(3, 'UTC')) COMMENT 'When it first happened.' CODEC(ZSTD(1)),
    _partition         SimpleAggregateFunction(any, Int32) COMMENT 'Where the first copy lies in message-views.',
    _offset            SimpleAggregateFunction(any, Int64) COMMENT 'Where the first copy lies in its partition.' CODEC(ZSTD(1)),
    accepted_at        SimpleAggregateFunction(any, DateTime64(3, 'UTC')) COMMENT 'Record time of the first copy.' CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(message_created_at)
ORDER BY (conversation_id, message_created_at, message_id, user_id, status)
SETTINGS min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
COMMENT 'Copies of receipts. Read the view message_views.'
