package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/sink/schema"
	"github.com/spf13/cobra"
)

// setupCommands are for those who set Earshot up and find out what is wrong with it.
func (a *app) setupCommands() []*cobra.Command {
	return []*cobra.Command{a.topicsCommand(), a.schemaCommand(), a.configCommand(), a.engineCommand(), a.doctorCommand(), a.healthcheckCommand(), versionCommand()}
}

func (a *app) topicsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "topics", Short: "Create and list the topics", Args: noArgs}
	cmd.AddCommand(
		&cobra.Command{
			Use: "apply", Short: "Create what is missing, set retention, add partitions; safe to run again", Args: noArgs,
			Example: "  earshot topics apply --kafka-brokers kafka:9092",
			RunE: func(cmd *cobra.Command, _ []string) error {
				return withAdmin(cmd.Context(), a.cfg.Kafka, func(admin *kafka.Admin) error {
					changes, err := admin.Apply(cmd.Context(), a.cfg.Kafka.Topics.All())
					for _, c := range changes {
						fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", c.Topic, c.Did)
					}
					return err
				})
			},
		},
		&cobra.Command{
			Use: "list", Short: "Show the topics of the registry and what the brokers have of them; exit 1 when one is missing", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return withAdmin(cmd.Context(), a.cfg.Kafka, func(admin *kafka.Admin) error {
					return listTopics(cmd.Context(), cmd.OutOrStdout(), admin, a.cfg.Kafka.Topics)
				})
			},
		})
	return cmd
}

// withAdmin lends an admin to do, once brokers answer.
func withAdmin(ctx context.Context, cfg kafka.Config, do func(*kafka.Admin) error) error {
	admin, err := kafka.NewAdmin(cfg)
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := admin.Ping(ctx); err != nil {
		return fmt.Errorf("no broker of %s answers (%w); check --kafka-brokers or KAFKA_BROKERS", strings.Join(cfg.Brokers, ","), err)
	}
	return do(admin)
}

func listTopics(ctx context.Context, w io.Writer, admin *kafka.Admin, topics kafka.Topics) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "TOPIC\tKEY\tPARTITIONS\tRETENTION\tRECORDS")
	missing := 0
	for _, t := range topics.All() {
		info, err := admin.Describe(ctx, t.Name)
		if err != nil {
			return err
		}
		if !info.Exists {
			missing++
			fmt.Fprintf(tw, "%s\t%s\tmissing\t%s\t\n", t.Name, t.Key, shortDuration(t.Retention))
			continue
		}
		first, err := admin.FirstOffsets(ctx, t.Name)
		if err != nil {
			return err
		}
		end, err := admin.EndOffsets(ctx, t.Name)
		if err != nil {
			return err
		}
		var records int64
		for p, o := range end {
			records += o - first[p]
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%d\n", t.Name, t.Key, info.Partitions, shortDuration(t.Retention), records)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if missing > 0 {
		return fmt.Errorf("%d topics are missing; create them with: earshot topics apply", missing)
	}
	return nil
}

func (a *app) schemaCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "schema", Short: "Set up and show the tables in ClickHouse", Args: noArgs}
	cmd.AddCommand(
		&cobra.Command{
			Use: "apply", Short: "Create or bring up to date what is in ClickHouse; safe to run again and from several processes at once", Args: noArgs,
			Example: "  earshot schema apply --clickhouse-url clickhouse:9000 --clickhouse-user admin",
			RunE: func(cmd *cobra.Command, _ []string) error {
				conn, err := clickhouse.Open(a.cfg.ClickHouse)
				if err != nil {
					return err
				}
				defer conn.Close()
				applied, err := schema.Apply(cmd.Context(), conn, schema.Options{Retention: a.cfg.Retention})
				for _, f := range applied {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", f.Name, f.Did)
				}
				return err
			},
		},
		&cobra.Command{
			Use: "print", Short: "Print the SQL", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return schema.Print(cmd.OutOrStdout())
			},
		})
	return cmd
}

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show the settings", Args: noArgs}
	effective := false
	show := &cobra.Command{
		Use: "print", Short: "Print every setting with its flag and variable, as YAML that --config reads; secrets are masked", Args: noArgs,
		Example: "  earshot config print > earshot.yaml\n  KAFKA_BROKERS=kafka:9092 earshot config print --effective",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.table.print(cmd.OutOrStdout(), effective)
		},
	}
	show.Flags().BoolVar(&effective, "effective", false, "the values in force and where each came from, in place of the defaults")
	cmd.AddCommand(show)
	return cmd
}

func (a *app) engineCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "engine", Short: "Fetch the embedded ClickHouse engine", Args: noArgs}
	cmd.AddCommand(&cobra.Command{
		Use: "fetch", Short: "Fetch the engine into the user's cache with npm, unless it is there; prints its path", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := embedded.EnsureEngine(cmd.Context(), embedded.EngineConfig{Progress: os.Stderr})
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return err
		},
	})
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "earshot %s (ClickHouse engine %s)\n", version(), embedded.EngineVersion)
			return err
		},
	}
}
