package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cask-storage/cask/internal/explain"
)

func volumesCommand(cl *cluster) *cobra.Command {
	return &cobra.Command{
		Use: "volumes", Aliases: []string{"volume", "vol"}, Args: cobra.NoArgs,
		Short: "List volumes, the claims they are for and how they are",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cl.connect()
			if err != nil {
				return err
			}
			return explain.Volumes(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
}

func poolsCommand(cl *cluster) *cobra.Command {
	return &cobra.Command{
		Use: "pools", Aliases: []string{"pool"}, Args: cobra.NoArgs,
		Short: "List StoragePools node by node, with what they have left",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cl.connect()
			if err != nil {
				return err
			}
			return explain.Pools(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
}

func explainCommand(cl *cluster) *cobra.Command {
	return &cobra.Command{
		Use: "explain VOLUME|CLAIM|NAMESPACE/CLAIM", Args: cobra.ExactArgs(1),
		Short: "Say how one volume is, what is wrong with it and what to do next",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cl.connect()
			if err != nil {
				return err
			}
			f, err := explain.Gather(cmd.Context(), c, cl.name(args[0]))
			if err != nil {
				return err
			}
			return explain.Write(cmd.OutOrStdout(), f)
		},
	}
}

func whyCommand(cl *cluster) *cobra.Command {
	return &cobra.Command{
		Use: "why-degraded [VOLUME|CLAIM|NAMESPACE/CLAIM]", Aliases: []string{"why"}, Args: cobra.MaximumNArgs(1),
		Short: "Say what is wrong, with one volume or with all that are not healthy",
		RunE: func(cmd *cobra.Command, args []string) error {
			return why(cmd, cl, args)
		},
	}
}

func why(cmd *cobra.Command, cl *cluster, names []string) error {
	c, err := cl.connect()
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if len(names) == 0 {
		if names, err = explain.Unhealthy(cmd.Context(), c); err != nil {
			return err
		}
		if len(names) == 0 {
			_, err := fmt.Fprintln(out, "Every volume is healthy.")
			return err
		}
	}
	for i, n := range names {
		if i > 0 {
			fmt.Fprintln(out)
		}
		f, err := explain.Gather(cmd.Context(), c, cl.name(n))
		if err != nil {
			return err
		}
		if err := explain.WriteWhy(out, f); err != nil {
			return err
		}
	}
	return nil
}
