# One gateway on each client node. State lies on the node (host volume), so a node keeps its agent and no allocation
# moves: type "system", and Nomad starts the gateway again in its place.
job "openclaw" {
  datacenters = ["dc1"]
  type        = "system"

  # The farm's nodes. The name of the node becomes NODE, and with it agent and gateway.
  constraint {
    attribute = "${node.unique.name}"
    operator  = "regexp"
    value     = "^(jerry|bobby|billy)$"
  }

  group "gateway" {
    network {
      mode = "host"
      port "http" { static = 18789 }
      port "peer" { static = 18790 }
    }

    volume "openclaw" {
      type   = "host"
      source = "openclaw"
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    # What a router needs. The gateway itself registers openclaw-gateway (id <node>-gateway, tags openclaw and
    # farm-octant, TTL check that it keeps alive); this is a service beside it, with a check that Consul makes.
    service {
      name = "openclaw"
      port = "http"

      tags = [
        "traefik.enable=true",
        "traefik.http.routers.openclaw.rule=Host(`openclaw.example.net`)",
        "traefik.http.routers.openclaw.entrypoints=websecure",
        "traefik.http.routers.openclaw.tls=true",
        # A dashboard stays with the gateway it began with.
        "traefik.http.services.openclaw.loadbalancer.sticky.cookie.name=openclaw",
        "traefik.http.services.openclaw.loadbalancer.sticky.cookie.secure=true",
      ]

      check {
        type     = "http"
        path     = "/readyz"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "gateway" {
      driver = "exec"

      # The gateway ends its turns when it is told to stop.
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
        # As `openclaw farm init` printed it. It is public.
        FARM_ROOT            = "<root>"
      }

      # nomad var put nomad/jobs/openclaw gateway_token=… anthropic_api_key=…
      template {
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/openclaw" }}
          OPENCLAW_GATEWAY_TOKEN={{ .gateway_token }}
          ANTHROPIC_API_KEY={{ .anthropic_api_key }}
          {{ end }}
        EOT
        destination = "${NOMAD_SECRETS_DIR}/openclaw.env"
        env         = true
      }

      # The config has ${NAME} of its own, which is the gateway's to fill in: Nomad takes the file as it is.
      template {
        data        = "{{ key \"openclaw/config/openclaw.json\" }}"
        destination = "${NOMAD_TASK_DIR}/openclaw.json"
      }

      resources {
        cpu    = 1000
        memory = 1024
      }
    }
  }
}
