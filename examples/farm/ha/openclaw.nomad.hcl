# One gateway on each of three nodes; agents move between them by themselves, so no allocation has to.
job "openclaw-ha" {
  datacenters = ["dc1"]
  type        = "system"

  constraint {
    attribute = "${node.unique.name}"
    operator  = "regexp"
    value     = "^(jerry|bobby|billy)$"
  }

  # One node after the other. A gateway that is told to stop gives its agents to the others first.
  update {
    max_parallel     = 1
    min_healthy_time = "15s"
    healthy_deadline = "3m"
    auto_revert      = true
  }

  group "gateway" {
    network {
      mode = "host"
      port "http" { static = 18789 }
      port "peer" { static = 18790 }
    }

    # Keys and the lock only: what agents are made of is in PostgreSQL.
    volume "openclaw" {
      type   = "host"
      source = "openclaw"
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "1s"
      mode     = "delay"
    }

    # Any gateway answers for any agent, so no sticky sessions.
    service {
      name = "openclaw"
      port = "http"
      tags = [
        "traefik.enable=true",
        "traefik.http.routers.openclaw.rule=Host(`openclaw.example.net`)",
        "traefik.http.routers.openclaw.entrypoints=websecure",
        "traefik.http.routers.openclaw.tls=true",
      ]
      check {
        type     = "http"
        path     = "/readyz"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "gateway" {
      driver       = "exec"
      kill_timeout = "60s"

      config {
        command = "/usr/local/bin/openclaw"
        args    = ["gateway", "run"]
      }

      volume_mount {
        volume      = "openclaw"
        destination = "/var/lib/openclaw"
      }

      env {
        HOME                 = "/var/lib/openclaw"
        OPENCLAW_STATE_DIR   = "/var/lib/openclaw/state"
        OPENCLAW_CONFIG_PATH = "${NOMAD_TASK_DIR}/openclaw.json"
        NODE                 = "${node.unique.name}"
        NODE_ADDR            = "${attr.unique.network.ip-address}"
        PEER_PORT            = "18790"
        CONSUL_HTTP_ADDR     = "http://127.0.0.1:8500"
        OPENCLAW_MODEL       = "anthropic/claude-sonnet-4-5"
        FARM_ROOT            = "<root>"
      }

      # nomad var put nomad/jobs/openclaw-ha gateway_token=… state_url=postgres://… anthropic_api_key=…
      template {
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/openclaw-ha" }}
          OPENCLAW_GATEWAY_TOKEN={{ .gateway_token }}
          CLAW_STATE_URL={{ .state_url }}
          ANTHROPIC_API_KEY={{ .anthropic_api_key }}
          {{ end }}
        EOT
        destination = "${NOMAD_SECRETS_DIR}/openclaw.env"
        env         = true
      }

      template {
        data        = "{{ key \"openclaw/config/openclaw.json\" }}"
        destination = "${NOMAD_TASK_DIR}/openclaw.json"
      }

      resources {
        cpu    = 1000
        memory = 512
      }
    }
  }
}
