-- Messages and what receipts say of them. Read it through the view messages.
--
-- A row is either a copy of a message, with no NULL in the message's columns, or a receipt, with NULL in all of them; rows of one
-- (conversation_id, message_id) become one. any takes the first value that is not NULL, and parts merge in the order they were inserted, which
-- is the order of the log: so the first copy stays whole, and no two copies are ever mixed. Status and read_at do not depend on order.
CREATE TABLE IF NOT EXISTS message_db.message_rows
(
    conversation_id String COMMENT 'Conversation; with message_id the identity of a message.',
    created_at      DateTime64(3, 'UTC') COMMENT 'Event time, as message_id carries it: the same for copies and receipts.' CODEC(Delta, ZSTD(1)),
    message_id      String COMMENT 'msg- and a UUIDv7.' CODEC(ZSTD(1)),
    sender_id       SimpleAggregateFunction(any, Nullable(String)) COMMENT 'Sender; NULL in a receipt, which is how to tell.',
    receiver_id     SimpleAggregateFunction(any, Nullable(String)) COMMENT 'Receiver; empty in a group.',
    content         SimpleAggregateFunction(any, Nullable(String)) COMMENT 'Text.' CODEC(ZSTD(1)),
    message_type    SimpleAggregateFunction(any, Nullable(String)) COMMENT 'text, image and the like.',
    backfill        SimpleAggregateFunction(any, Nullable(Bool)) COMMENT 'Sent as old on purpose, hence never late.',
    _partition      SimpleAggregateFunction(any, Nullable(Int32)) COMMENT 'Where the first copy lies in chat.messages.',
    _offset         SimpleAggregateFunction(any, Nullable(Int64)) COMMENT 'Where the first copy lies in its partition.' CODEC(ZSTD(1)),
    accepted_at     SimpleAggregateFunction(any, Nullable(DateTime64(3, 'UTC'))) COMMENT 'Record time of the first copy.' CODEC(ZSTD(1)),
    read_status     SimpleAggregateFunction(max, Enum8('sent' = 1, 'delivered' = 2, 'read' = 3)) COMMENT 'Furthest of all receipts.',
    read_at         SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'Earliest time at which it was read.',
    touched_at      SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Newest record time of a copy or receipt. By it a receipt without a message ends.' CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(created_at)
ORDER BY (conversation_id, created_at, message_id)
-- A day that was quiet for an hour becomes one part: reading it needs no merging, and all copies meet before their TTL.
SETTINGS min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
COMMENT 'Copies of messages, and receipts. Read the view messages.'
