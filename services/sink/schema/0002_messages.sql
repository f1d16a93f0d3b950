-- Every message once, as its first copy in the log has it, with what receipts say of it at this instant.
CREATE VIEW IF NOT EXISTS message_db.messages
(
    message_id      String COMMENT 'msg- and a UUIDv7, whose time is created_at. Unique within its conversation.',
    conversation_id String COMMENT 'Conversation.',
    sender_id       String COMMENT 'Sender.',
    receiver_id     String COMMENT 'Receiver; empty in a group.',
    content         String COMMENT 'Text.',
    created_at      DateTime64(3, 'UTC') COMMENT 'When it was written (event time). History is ordered by created_at, then _offset.',
    message_type    String COMMENT 'text, image and the like.',
    user_id         String COMMENT 'The sender.',
    event_type      String COMMENT 'Always message_sent.',
    read_status     String COMMENT 'sent, delivered or read.',
    read_at         Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was first read; NULL while unread.',
    backfill        Bool COMMENT 'Sent as old on purpose, hence never late.',
    accepted_at     DateTime64(3, 'UTC') COMMENT 'When Kafka took the first copy.',
    _partition      Int32 COMMENT 'Partition of the first copy in chat.messages.',
    _offset         Int64 COMMENT 'Offset of the first copy.'
)
AS SELECT
    message_id,
    conversation_id,
    assumeNotNull(rows.sender_id) AS sender_id,
    assumeNotNull(rows.receiver_id) AS receiver_id,
    assumeNotNull(rows.content) AS content,
    created_at,
    assumeNotNull(rows.message_type) AS message_type,
    assumeNotNull(rows.sender_id) AS user_id,
    'message_sent' AS event_type,
    toString(rows.read_status) AS read_status,
    read_at,
    assumeNotNull(rows.backfill) AS backfill,
    assumeNotNull(rows.accepted_at) AS accepted_at,
    assumeNotNull(rows._partition) AS _partition,
    assumeNotNull(rows._offset) AS _offset
FROM message_db.message_rows AS rows FINAL
WHERE rows.sender_id IS NOT NULL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Every message once, with the state of its receipts.'
