package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// settings are the flags that change what the fake does; all others are accepted and ignored.
type settings struct {
	standalone, stamp                 bool
	subclient, csrfToken, cloudCode   string
	appDataDir, geminiDir, ideVersion string
	userAgentName                     string
	httpsPort, httpPort               int
}

// readSettings takes one or two dashes, `=` or not, as Go's flag package does; an unknown flag ends with usage and 2.
func readSettings(arguments []string) settings {
	var s settings
	f := flag.NewFlagSet(arguments[0], flag.ExitOnError)
	f.BoolVar(&s.standalone, "standalone", false, "run without an IDE")
	f.BoolVar(&s.stamp, "stamp", false, "print the build stamp and exit")
	f.StringVar(&s.subclient, "subclient_type", "ide", "one of hub, sdk, cli, ide")
	f.StringVar(&s.csrfToken, "csrf_token", "", "secret that every RPC must carry")
	f.StringVar(&s.cloudCode, "cloud_code_endpoint", "", "base URL of the cloud code API")
	f.StringVar(&s.appDataDir, "app_data_dir", "antigravity-ide", "directory under gemini_dir")
	f.StringVar(&s.geminiDir, "gemini_dir", ".gemini", "directory under HOME")
	f.StringVar(&s.ideVersion, "override_ide_version", languageServerVersion, "version of the app")
	f.StringVar(&s.userAgentName, "override_user_agent_name", "antigravity", "name in the user agent")
	f.IntVar(&s.httpsPort, "https_server_port", 0, "HTTPS port, 0 for a free one")
	f.IntVar(&s.httpPort, "http_server_port", 0, "HTTP port, 0 for a free one")
	for name, value := range map[string]string{
		"override_ide_name": "", "api_server_url": "http://0.0.0.0:50001", "model_api_client_type": "ccpa", "host_bridge_url": "",
		"host_bridge_token": "", "extension_server_csrf_token": "", "workspace_id": "", "parent_pipe_path": "", "inference_api_server_url": "",
		"analytics_server_url": "", "override_direct_ls_version": "",
	} {
		f.String(name, value, "accepted and ignored by the fake")
	}
	for name, value := range map[string]int{"extension_server_port": 0, "server_port": 42100, "lsp_port": 42101} {
		f.Int(name, value, "accepted and ignored by the fake")
	}
	for _, name := range []string{
		"enable_lsp", "enable_sidecars", "headless", "disable_telemetry", "persistent_mode", "random_port", "dev_mode", "cli",
		"is_google3_workspace", "is_google_internal", "use_dev_unleash",
	} {
		f.Bool(name, false, "accepted and ignored by the fake")
	}
	_ = f.Parse(arguments[1:])
	if !strings.Contains(" hub sdk cli ide ", " "+s.subclient+" ") {
		fmt.Fprintf(os.Stderr, "invalid value %q for flag -subclient_type: must be one of hub, sdk, cli, ide\n", s.subclient)
		f.Usage()
		os.Exit(2)
	}
	if s.cloudCode == "" {
		s.cloudCode = "https://daily-cloudcode-pa.googleapis.com"
	}
	return s
}

// faults are what WIREMETER_FAKE_FAULT asks for.
type faults map[string]string

func readFaults(text string) faults {
	f := faults{}
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			name, value, _ := strings.Cut(part, "=")
			f[name] = value
		}
	}
	return f
}

func (f faults) has(name string) bool {
	_, there := f[name]
	return there
}

func (f faults) duration(name string) time.Duration {
	d, _ := time.ParseDuration(f[name])
	return d
}
