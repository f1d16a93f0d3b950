CREATE VIEW IF NOT EXISTS message_db.conversation_metrics
(
    conversation_id   String COMMENT 'Conversation.',
    message_count     UInt32 COMMENT 'Distinct messages kept.',
    participant_count UInt32 COMMENT 'Distinct senders.',
    last_message_at   DateTime64(3, 'UTC') COMMENT 'created_at of the last message.',
    created_at        DateTime64(3, 'UTC') COMMENT 'created_at of the first message.'
)
AS SELECT
    conversation_id,
    toUInt32(count()) AS message_count,
    toUInt32(uniqExact(sender_id)) AS participant_count,
    max(m.created_at) AS last_message_at,
    min(m.created_at) AS created_at
FROM message_db.messages AS m
GROUP BY conversation_id
COMMENT 'One row per conversation, over all kept messages.'
