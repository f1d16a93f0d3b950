CREATE VIEW IF NOT EXISTS message_db.realtime_user_activity
(
    user_id              String COMMENT 'Sender.',
    created_at           DateTime64(3, 'UTC') COMMENT 'Start of the calendar minute (UTC).',
    messages_last_minute UInt64 COMMENT 'Distinct messages the user sent in that minute.'
)
AS SELECT
    sender_id AS user_id,
    toDateTime64(toStartOfMinute(m.created_at), 3, 'UTC') AS created_at,
    count() AS messages_last_minute
FROM message_db.messages AS m
GROUP BY user_id, created_at
COMMENT 'One row per sender and calendar minute with a message.'
