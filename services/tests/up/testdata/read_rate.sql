-- Read rate per sender
SELECT sender_id,
       count(*) AS sent,
       countIf(read_status = 'read') AS read_count,
       round(read_count * 100.0 / sent, 2) AS read_rate
FROM message_db.messages GROUP BY sender_id;
