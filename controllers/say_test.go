package controllers_test

import "fmt"

func sprint(v any) string { return fmt.Sprintf("%+v", v) }

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
