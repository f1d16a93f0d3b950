package simulator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// journal keeps how far a replay is, for each content of a file and each address, so that one that was cut off can go on.
type journal struct {
	path string

	Line           int       `json:"line"` // it and all before it are acknowledged
	MessageID      string    `json:"message_id"`
	ConversationID string    `json:"conversation_id"`
	CreatedAt      time.Time `json:"created_at"`
}

func openJournal(dir, file, address string) (*journal, error) {
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find the cache directory: %w", err)
		}
		dir = filepath.Join(cache, "earshot", "replay")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("read recording: %w", err)
	}
	h.Write([]byte(address))
	j := &journal{path: filepath.Join(dir, hex.EncodeToString(h.Sum(nil)[:16])+".json")}
	if b, err := os.ReadFile(j.path); err == nil {
		_ = json.Unmarshal(b, j) // one that can not be read is as good as none
	}
	return j, nil
}

// known says whether there is something to go on from: the mesh has the line that was acknowledged last. A mesh that was emptied meanwhile, or whose
// history can not be asked, gets the file from its start, which harms nothing.
func (j *journal) known(ctx context.Context, conn grpc.ClientConnInterface) bool {
	if j.Line == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := apiv1.NewConversationServiceClient(conn)
	req := &apiv1.ListConversationMessagesRequest{
		ConversationId: j.ConversationID, PageSize: 200,
		StartTime: timestamppb.New(j.CreatedAt), EndTime: timestamppb.New(j.CreatedAt.Add(time.Millisecond)),
	}
	for {
		resp, err := client.ListConversationMessages(ctx, req)
		if err != nil {
			return false
		}
		for _, m := range resp.GetMessages() {
			if m.GetMessageId() == j.MessageID {
				return true
			}
		}
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			return false
		}
	}
}

// save notes that l and all before it are acknowledged. A journal that can not be written only costs a resumption.
func (j *journal) save(l line) {
	if l.request == nil {
		return
	}
	j.Line, j.MessageID, j.ConversationID, j.CreatedAt = l.number, l.request.GetMessageId(), l.request.GetConversationId(), l.request.GetCreatedAt().AsTime()
	b, err := json.Marshal(j)
	if err != nil {
		return
	}
	tmp := j.path + ".new"
	if os.WriteFile(tmp, b, 0o600) == nil {
		_ = os.Rename(tmp, j.path)
	}
}

func (j *journal) remove() { _ = os.Remove(j.path) }
