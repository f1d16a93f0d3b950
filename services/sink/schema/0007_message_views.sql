CREATE VIEW IF NOT EXISTS message_db.message_views
(
    message_id      String COMMENT 'Message that was viewed; it need not exist.',
    conversation_id String COMMENT 'Conversation of the message.',
    user_id         String COMMENT 'Who got or read it.',
    status          String COMMENT 'delivered or read.',
    viewed_at       DateTime64(3, 'UTC') COMMENT 'When it first happened.',
    accepted_at     DateTime64(3, 'UTC') COMMENT 'When Kafka took the first copy.',
    _partition      Int32 COMMENT 'Partition of the first copy in message-views.',
    _offset         Int64 COMMENT 'Offset of the first copy.'
)
AS SELECT
    message_id,
    conversation_id,
    user_id,
    toString(rows.status) AS status,
    viewed_at,
    accepted_at,
    _partition,
    _offset
FROM message_db.message_view_rows AS rows FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'One row per message, user and status.'
