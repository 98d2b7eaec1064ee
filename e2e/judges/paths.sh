#!/usr/bin/env bash
# What nginx, Apache's httpd and Tomcat read as the path of a request, alone and one before the other: rewrites all
# columns but the first of the table FILE. `./dev judges` calls it; a line with a path alone is a new question.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
table=$1
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait; rm -rf "$work"' EXIT
mapfile -t ports < <(shuf -i 20000-30000 -n 5)
nginx=${ports[0]} nginx_tomcat=${ports[1]} httpd=${ports[2]} httpd_tomcat=${ports[3]} tomcat=${ports[4]}

for jar in org.apache.tomcat.embed:tomcat-embed-core:10.1.34 org.apache.tomcat:tomcat-annotations-api:10.1.34; do
  mvn -q -B dependency:copy -Dartifact="$jar" -DoutputDirectory="$work/jars" >"$work/mvn.log" 2>&1 || { cat "$work/mvn.log" >&2; exit 1; }
done
java -cp "$work/jars/*" "$here/Reading.java" "$tomcat" "$work" 2>"$work/tomcat.log" &
pids+=($!)

cat >"$work/nginx.conf" <<CONF
daemon off;
master_process off;
error_log $work/nginx.log;
pid $work/nginx.pid;
events {}
http {
  access_log off;
  client_body_temp_path $work/1; proxy_temp_path $work/2; fastcgi_temp_path $work/3; uwsgi_temp_path $work/4; scgi_temp_path $work/5;
  server { listen 127.0.0.1:$nginx; location / { add_header X-Path "[\$uri]"; return 200; } }
  # With a path in proxy_pass, what nginx has read is written anew.
  server { listen 127.0.0.1:$nginx_tomcat; location / { proxy_pass http://127.0.0.1:$tomcat/; } }
}
CONF
nginx -p "$work" -c "$work/nginx.conf" &
pids+=($!)

modules=/usr/lib/apache2/modules
cat >"$work/httpd.conf" <<CONF
ServerRoot $work
ServerName localhost
PidFile $work/httpd.pid
ErrorLog $work/httpd.log
User www-data
Group www-data
LoadModule mpm_event_module $modules/mod_mpm_event.so
LoadModule authz_core_module $modules/mod_authz_core.so
LoadModule headers_module $modules/mod_headers.so
LoadModule rewrite_module $modules/mod_rewrite.so
LoadModule proxy_module $modules/mod_proxy.so
LoadModule proxy_http_module $modules/mod_proxy_http.so
Listen 127.0.0.1:$httpd
Listen 127.0.0.1:$httpd_tomcat
# The reading that goes farthest: by default it refuses them.
AllowEncodedSlashes On
<VirtualHost 127.0.0.1:$httpd>
  AllowEncodedSlashes On
  Header always set X-Path "expr=[%{REQUEST_URI}]"
  RewriteEngine On
  RewriteRule .* - [R=204,L]
</VirtualHost>
<VirtualHost 127.0.0.1:$httpd_tomcat>
  AllowEncodedSlashes On
  ProxyPass / http://127.0.0.1:$tomcat/
</VirtualHost>
CONF
/usr/sbin/apache2 -f "$work/httpd.conf" -D FOREGROUND &
pids+=($!)

# Tomcat first: two of the others ask it.
for port in "$tomcat" "$nginx" "$httpd"; do
  curl -s -o /dev/null --retry 60 --retry-delay 1 --retry-connrefused "http://127.0.0.1:$port/"
done

# Comments stay as they are; what is no success is a refusal.
grep '^#' "$table" >"$work/comments" || true
grep -v '^#' "$table" | cut -f 1 >"$work/paths"
columns=("$work/paths")
for port in "$nginx" "$httpd" "$tomcat" "$nginx_tomcat" "$httpd_tomcat"; do
  awk -v port="$port" '{ printf "url = \"http://127.0.0.1:%s%s\"\noutput = /dev/null\n", port, $0 }' "$work/paths" >"$work/urls"
  curl -s -g --path-as-is -w '%{http_code} %header{x-path}\n' -K "$work/urls" |
    sed -e 's/^2.. \[\(.*\)\]$/\1/;t' -e 's/.*/refused/' >"$work/$port"
  columns+=("$work/$port")
done
{ cat "$work/comments"; paste "${columns[@]}"; } >"$work/table"
cp "$work/table" "$table"
